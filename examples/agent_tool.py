# %% [markdown]
# # FastLane as an agent's tool
#
# An agent decides by itself when to search and with which words. The model here is scripted, so that this runs
# without a network and always the same way; a real chat model goes in its place unchanged.

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
# `content_and_artifact` hands the text to the model and keeps the documents for you.

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
# The agent can narrow the search: options of one call need no second retriever.

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
