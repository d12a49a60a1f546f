"""FastLane inside LangChain's own chains and retrievers, as their users put it there."""

import datetime as dt
import re
from typing import Any

import pytest
from langchain_classic.chains import create_history_aware_retriever, create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.retrievers import EnsembleRetriever, MultiQueryRetriever, ParentDocumentRetriever
from langchain_classic.retrievers.self_query.base import SelfQueryRetriever
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel, ParrotFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.stores import InMemoryStore
from langchain_core.structured_query import Comparator, Comparison, Operation, Operator, StructuredQuery
from langchain_core.tools import create_retriever_tool
from langchain_fastlane import FastLaneRetriever, FastLaneTranslator, FastLaneVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter

from fastlane_rag import FastLaneIndex

QUERY = "how do I add an enumeration type?"


@pytest.fixture
def retriever(index: FastLaneIndex) -> FastLaneRetriever:
    return FastLaneRetriever(index=index, k=3)


def joined(documents: list[Document]) -> str:
    return "\n\n".join(document.page_content for document in documents)


async def test_an_lcel_chain_hands_the_passages_to_the_model(retriever):
    """The parrot model repeats the prompt, so the answer shows what was retrieved."""
    prompt = ChatPromptTemplate.from_template("Context: {context}\nQuestion: {question}")
    inputs = {"context": retriever | joined, "question": RunnablePassthrough()}
    chain = inputs | prompt | ParrotFakeChatModel() | StrOutputParser()
    answer = chain.invoke(QUERY)
    for document in retriever.invoke(QUERY):
        assert document.page_content in answer
    assert await chain.ainvoke(QUERY) == answer
    assert "".join(chain.stream(QUERY)) == answer
    assert chain.batch([QUERY, QUERY]) == [answer, answer]


async def test_create_retrieval_chain_answers_and_returns_its_context(retriever):
    prompt = ChatPromptTemplate.from_template("{context}\n{input}")
    chain = create_retrieval_chain(retriever, create_stuff_documents_chain(ParrotFakeChatModel(), prompt))
    for result in (chain.invoke({"input": QUERY}), await chain.ainvoke({"input": QUERY})):
        assert result["context"] == retriever.invoke(QUERY)
        assert all(document.page_content in result["answer"] for document in result["context"])


def test_a_history_aware_retriever_searches_the_rephrased_question(retriever):
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("chat_history"), ("human", "{input}")])
    model = GenericFakeChatModel(messages=iter([AIMessage(QUERY)]))
    aware = create_history_aware_retriever(model, retriever, prompt)
    history = [HumanMessage("What is an Enum?"), AIMessage("A set of names.")]
    found = aware.invoke({"input": "how do I add one?", "chat_history": history})
    assert found == retriever.invoke(QUERY)


def test_a_retriever_tool_returns_text_and_documents(retriever):
    tool = create_retriever_tool(retriever, "peps", "Search the PEPs.", response_format="content_and_artifact")
    call = {"name": "peps", "args": {"query": QUERY}, "id": "1", "type": "tool_call"}
    message = tool.invoke(call)
    assert isinstance(message, ToolMessage)
    assert message.artifact == retriever.invoke(QUERY)
    assert all(document.page_content in message.content for document in message.artifact)
    assert tool.invoke({"query": QUERY}) == message.content


class Keywords(BaseRetriever):
    """Documents that share a word with the query, in their own order."""

    documents: list[Document]

    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        words = set(re.findall(r"\w{4,}", query.lower()))
        return [found for found in self.documents if words & set(re.findall(r"\w{4,}", found.page_content.lower()))]


async def test_an_ensemble_fuses_by_a_metadata_key(index, retriever, corpus):
    documents = [Document(id=passage.id, page_content=passage.text, metadata=passage.metadata) for passage in corpus]
    ensemble = EnsembleRetriever(retrievers=[Keywords(documents=documents), retriever], id_key="pep")
    found = ensemble.invoke(QUERY)
    peps = [document.metadata["pep"] for document in found]
    assert peps[0] == 435
    assert len(peps) == len(set(peps))
    assert {document.metadata["pep"] for document in retriever.invoke(QUERY)} <= set(peps)
    assert await ensemble.ainvoke(QUERY) == found


def test_a_multi_query_retriever_unites_its_questions(retriever):
    questions = ["enumeration type", "matrix multiplication operator"]
    model = GenericFakeChatModel(messages=iter([AIMessage("\n".join(questions))]))
    found = MultiQueryRetriever.from_llm(retriever, model).invoke("anything")
    expected = {document.id for question in questions for document in retriever.invoke(question)}
    assert {document.id for document in found} == expected


async def test_a_parent_document_retriever_searches_parts_and_returns_wholes(model, corpus):
    parents = ParentDocumentRetriever(
        vectorstore=FastLaneVectorStore(model=model),
        docstore=InMemoryStore(),
        child_splitter=RecursiveCharacterTextSplitter(chunk_size=150, chunk_overlap=0),
        search_kwargs={"k": 2},
    )
    wholes = [Document(page_content=passage.text, metadata=passage.metadata) for passage in corpus[:6]]
    parents.add_documents(wholes)
    found = parents.invoke("decorator")
    assert found
    assert all(document in wholes for document in found)
    assert len(parents.vectorstore.index) > len(wholes)
    await parents.aadd_documents([Document(page_content="Cats purr.")], ids=["cat"])
    assert (await parents.ainvoke("cats purr"))[0].page_content == "Cats purr."


# --- self-query --------------------------------------------------------------------------------------------------


def compare(comparator: Comparator, attribute: str, value: Any) -> Comparison:
    return Comparison(comparator=comparator, attribute=attribute, value=value)


def operate(operator: Operator, *arguments: Any) -> Operation:
    return Operation(operator=operator, arguments=list(arguments))


@pytest.mark.parametrize(
    ("directive", "peps"),
    [
        (compare(Comparator.EQ, "pep", 8), {8}),
        (compare(Comparator.NE, "tags", "x"), {8, 255, 279, 318, 343, 371, 435, 465, 484, 557, 584, 616}),
        (compare(Comparator.GT, "pep", 557), {584, 616}),
        (compare(Comparator.GTE, "pep", 584), {584, 616}),
        (compare(Comparator.LT, "pep", 255), {8}),
        (compare(Comparator.LTE, "pep", 255), {8, 255}),
        (compare(Comparator.CONTAIN, "tags", "late"), {435, 465, 484, 557, 584, 616}),
        (compare(Comparator.CONTAIN, "title", "Decorators"), {318}),
        (compare(Comparator.IN, "pep", [8, 484, 1]), {8, 484}),
        (compare(Comparator.NIN, "pep", [8, 255, 279, 318, 343, 371, 435, 465, 484]), {557, 584, 616}),
        (operate(Operator.AND, compare(Comparator.GT, "pep", 300), compare(Comparator.LT, "pep", 350)), {318, 343}),
        (operate(Operator.OR, compare(Comparator.EQ, "pep", 8), compare(Comparator.EQ, "pep", 484)), {8, 484}),
        (operate(Operator.NOT, compare(Comparator.GT, "pep", 8)), {8}),
    ],
    ids=str,
)
async def test_self_query_reaches_the_filter(index, directive, peps):
    """What a language model would have written stands in for it."""
    retriever = SelfQueryRetriever(
        vectorstore=FastLaneVectorStore(index),
        query_constructor=RunnableLambda(lambda _: StructuredQuery(query="python", filter=directive, limit=12)),
        structured_query_translator=FastLaneTranslator(),
    )
    found = retriever.invoke("anything")
    assert {document.metadata["pep"] for document in found} == peps
    assert await retriever.ainvoke("anything") == found


@pytest.mark.parametrize("asked", [None, Comparison(comparator=Comparator.GT, attribute="pep", value=300)])
def test_self_query_stays_within_the_translators_filter(index, asked):
    """SelfQueryRetriever lets the language model's filter replace the one in `search_kwargs`."""
    retriever = SelfQueryRetriever(
        query_constructor=RunnableLambda(lambda _: StructuredQuery(query="python", filter=asked, limit=12)),
        vectorstore=FastLaneVectorStore(index),
        structured_query_translator=FastLaneTranslator({"pep": {"$lt": 400}}),
        use_original_query=True,
    )
    found = {document.metadata["pep"] for document in retriever.invoke(QUERY)}
    assert found == ({8, 255, 279, 318, 343, 371} if asked is None else {318, 343, 371})


def test_self_query_without_a_filter_and_with_a_limit(index):
    retriever = SelfQueryRetriever(
        vectorstore=FastLaneVectorStore(index),
        query_constructor=RunnableLambda(lambda _: StructuredQuery(query=QUERY, filter=None, limit=2)),
        structured_query_translator=FastLaneTranslator(),
    )
    assert retriever.invoke("anything") == FastLaneRetriever(index=index, k=2).invoke(QUERY)


@pytest.mark.parametrize(
    ("comparator", "ids"),
    [
        (Comparator.EQ, {"date", "midnight"}),
        (Comparator.NE, {"later"}),
        (Comparator.GTE, {"date", "midnight", "later"}),
        (Comparator.LT, set()),
        (Comparator.IN, {"date", "midnight"}),
        (Comparator.NIN, {"later"}),
        (Comparator.CONTAIN, {"date", "midnight", "later"}),
    ],
    ids=lambda value: value.value if isinstance(value, Comparator) else len(value),
)
def test_self_query_compares_dates_as_instants(model, comparator, ids):
    """Equality compared them as texts, and a list of them was refused."""
    stored = {"date": dt.date(2024, 5, 1), "midnight": dt.datetime(2024, 5, 1), "later": dt.datetime(2024, 5, 1, 9)}
    store = FastLaneVectorStore(model=model)
    store.add_texts(list(stored), [{"created": value} for value in stored.values()], ids=list(stored))
    date = {"type": "date", "date": "2024-05-01"}
    several = comparator in (Comparator.IN, Comparator.NIN)
    query = StructuredQuery(query="x", filter=compare(comparator, "created", [date] if several else date))
    text, options = FastLaneTranslator().visit_structured_query(query)
    assert {document.id for document in store.similarity_search(text, **options)} == ids


def test_self_query_has_sqls_like_and_lets_a_date_of_another_form_pass():
    translator = FastLaneTranslator()
    assert translator.visit_comparison(compare(Comparator.LIKE, "title", "x%")) == {"title": {"$like": "x%"}}
    odd = {"type": "date", "date": "May 2024"}
    assert translator.visit_comparison(compare(Comparator.EQ, "created", odd)) == {"created": {"$eq": "May 2024"}}
