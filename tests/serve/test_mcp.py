"""The tools of an agent, asked by the protocol's own client."""

import sys
from pathlib import Path
from unittest.mock import Mock

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from fastlane_rag.errors import MissingExtraError
from fastlane_rag.serve.keys import read_keys
from fastlane_rag.serve.mcp import KeyGate, create_server

HERE = Path(__file__).parent


def told(result):
    """The structured answer of a tool; a list stands under `result`."""
    assert not result.is_error, result
    found = result.structured_content
    return found.get("result", found)


async def check_tools(client):
    tools = (await client.list_tools()).tools
    assert {one.name for one in tools} == {"search", "get", "list"}
    assert all(one.annotations.read_only_hint and one.description for one in tools)
    [best] = told(await client.call_tool("search", {"query": "cats purr", "k": 1}))
    assert (best["id"], best["text"], best["metadata"]) == ("cat", "cats purr when they are content", {"legs": 4})
    two = told(await client.call_tool("search", {"query": "cats purr", "filter": {"legs": {"$lt": 4}}, "hybrid": True}))
    assert {one["id"] for one in two} == {"bird", "fish"}
    found = told(await client.call_tool("get", {"ids": ["dog", "none"]}))
    assert [one["id"] for one in found] == ["dog"]
    listed = told(await client.call_tool("list", {"limit": 1, "offset": 1, "filter": {"legs": 4}}))
    assert (listed["total"], [one["id"] for one in listed["documents"]]) == (2, ["dog"])


async def test_the_tools_of_an_index(index):
    async with Client(create_server({"animals": index})) as client:
        await check_tools(client)


async def test_what_is_wrong_is_told_to_the_agent(index):
    async with Client(create_server({"animals": index, "plants": index})) as client:
        for arguments, said in (
            ({"query": "cats"}, "name one of: animals, plants"),
            ({"query": "cats", "index": "rocks"}, "'rocks'"),
            ({"query": "cats", "index": "plants", "filter": {"legs": {"$near": 1}}}, "$near"),
            ({"query": "cats", "index": "plants", "k": 1000}, "100"),
            ({"query": "cats", "index": "plants", "filter": {"leg": 4}}, "did you mean 'legs'"),
        ):
            result = await client.call_tool("search", arguments)
            assert result.is_error
            assert said in result.content[0].text
        assert len(told(await client.call_tool("search", {"query": "cats", "index": "plants"}))) == 4


async def test_long_documents_are_listed_by_their_start(index):
    index.add(["word " * 100], ["long"])
    async with Client(create_server({"animals": index})) as client:
        listed = told(await client.call_tool("list", {"offset": 4}))
        assert len(listed["documents"][0]["text"]) == 203
        assert len(told(await client.call_tool("get", {"ids": ["long"]}))[0]["text"]) == 500


async def test_over_standard_input_and_output(index):
    server = StdioServerParameters(command=sys.executable, args=[str(HERE / "mcp_server.py"), str(index.path)])
    async with Client(stdio_client(server)) as client:
        await check_tools(client)


async def test_over_http_with_a_key(index, running, tmp_path):
    from mcp.client.streamable_http import streamable_http_client

    file = tmp_path / "keys"
    file.write_text("agent read reader-key-0123456789\nloader write writer-key-0123456789\n")
    app = KeyGate(create_server({"animals": index}).streamable_http_app(stateless_http=True), read_keys(file))
    url = f"{running(app).url}/mcp"
    async with (
        httpx2.AsyncClient(headers={"Authorization": "Bearer reader-key-0123456789"}) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        await check_tools(client)
    async with httpx2.AsyncClient() as http:
        for headers in ({}, {"Authorization": "Bearer writer-key-0123456789"}, {"Authorization": "Basic x"}):
            assert (await http.post(url, headers=headers, json={})).status_code == 401


def test_indexes_have_names_of_their_own(index, monkeypatch):
    """Of two addresses without a name one was left out, and which one changed from run to run."""
    from click.testing import CliRunner

    from fastlane_rag.cli import main

    served = []
    monkeypatch.setattr("fastlane_rag.serve.mcp.create_server", lambda indexes: served.append(indexes) or Mock())
    here, url = str(index.path), "http://127.0.0.1:9"
    for wrong in ((url, url), (f"remote={here}", url), (f"a={here}", f"a={url}")):
        refused = CliRunner().invoke(main, ["mcp", *wrong])
        assert (refused.exit_code, "write NAME=DIR or NAME=URL for one" in refused.output) == (1, True)
    done = CliRunner().invoke(main, ["mcp", here, f"b={url}", "http://one:a=b@127.0.0.1:9"], catch_exceptions=False)
    assert done.exit_code == 0
    assert [*served.pop()] == ["animals", "b", "remote"]


def test_the_extra_is_named(monkeypatch, index):
    from click.testing import CliRunner

    from fastlane_rag.cli import main

    for command, extra, missing in (("mcp", "mcp", "mcp"), ("serve", "serve", "fastapi")):
        for name in [one for one in sys.modules if one.startswith(("fastlane_rag.serve", missing))]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(MissingExtraError, match=rf"fastlane-rag\[{extra}\]"):
            CliRunner().invoke(main, ["--debug", command, str(index.path)], catch_exceptions=False)
