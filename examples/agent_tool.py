# %% [markdown]
# # FastLane as an agent's tool
#
# An agent decides when to search, and with which words. The chat model here is a script, so that the notebook runs
# without a network and gives the same output each time. Put a real chat model in its place; nothing else changes.

# %%
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from fastlane_rag import FastLaneModel
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import create_retriever_tool, tool
from langchain_fastlane import FastLaneRetriever

from common import pep_index

model = FastLaneModel.from_pretrained()
index = pep_index(model)

# %% [markdown]
# ## A retriever as a tool
#
# With `content_and_artifact` the model gets the text, and you keep the documents.

# %%
search = create_retriever_tool(
    FastLaneRetriever(index=index, k=2),
    "search_peps",
    "Searches Python Enhancement Proposals. Give a question in plain words.",
    response_format="content_and_artifact",
)

# %% [markdown]
# ## A tool with arguments of its own
#
# The agent may narrow the search. Options are given with the call, so one retriever is enough.

# %%
retriever = FastLaneRetriever(index=index)


@tool(response_format="content_and_artifact")
def search_one_pep(query: str, pep: int) -> tuple[str, list]:
    """Search inside one PEP, given by its number."""
    documents = retriever.invoke(query, k=1, filter={"pep": pep})
    return "\n\n".join(document.page_content for document in documents), documents


tools = {"search_peps": search, "search_one_pep": search_one_pep}

# %% [markdown]
# ## The loop


# %%
class Scripted(GenericFakeChatModel):
    """Says what it was told to say, and accepts tools as a real chat model does."""

    def bind_tools(self, tools, **_):
        return self


def call(name, **arguments):
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": name, "type": "tool_call"}])


llm = Scripted(
    messages=iter(
        [
            call("search_peps", query="operator to merge two dictionaries"),
            call("search_one_pep", query="which value wins for a key in both?", pep=584),
            AIMessage("Use d1 | d2 (PEP 584). For a key in both, the right-hand value wins."),
        ]
    )
).bind_tools(list(tools.values()))

messages = [HumanMessage("How do I merge two dicts, and who wins on a conflict?")]
while True:
    reply = llm.invoke(messages)
    messages.append(reply)
    if not reply.tool_calls:
        break
    messages += [tools[wanted["name"]].invoke(wanted) for wanted in reply.tool_calls]

for message in messages:
    wanted = "".join(f" {one['name']}({one['args']})" for one in getattr(message, "tool_calls", []))
    print(f"{message.type:6}{wanted} {str(message.content)[:160]!r}")

# %%
found = [message for message in messages if isinstance(message, ToolMessage)]
assert any(document.metadata["pep"] == 584 for document in found[0].artifact)
assert all(document.metadata["pep"] == 584 for document in found[1].artifact)
index.close()
