// The page of `fastlane serve`. Everything that comes from documents or questions is put in as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const STAGES = ["encode", "filter", "route", "gather", "words", "refine", "fetch"];
const KEY = "fastlane-key";
let asked = 0; // which search is the latest: answers to older ones are dropped

// An element with attributes and children; children that are texts stay texts.
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// What the server answers, or an error with what it says is wrong.
async function call(path, body) {
  const headers = { Accept: "application/json" };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    const method = body === undefined ? "GET" : "POST";
    response = await fetch(`v1/indexes${path}`, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.status === 401) $("access").open = true;
  if (!response.ok) throw new Error(answer.detail || `The server answered ${response.status}.`);
  return answer;
}

const base = () => `/${encodeURIComponent($("index").value)}`;

function fail(error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
}

function json(id) {
  const text = $(id).value.trim();
  if (!text) return null;
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(`${id === "filter" ? "The filter" : "The metadata"} is not JSON: ${error.message}`);
  }
  return value;
}

async function about() {
  const { stats, model, read_only: readOnly } = await call(base());
  const rights = readOnly ? ", read only" : "";
  $("about").textContent = `${stats.documents.toLocaleString("en")} documents, ${model.name}${rights}`;
  $("adding").hidden = readOnly;
}

async function start() {
  $("error").hidden = true;
  try {
    const { indexes } = await call("");
    $("index").replaceChildren(...indexes.map((name) => element("option", {}, name)));
    await about();
  } catch (error) {
    fail(error);
  }
}

async function search() {
  const query = $("query").value.trim();
  const turn = ++asked;
  $("error").hidden = true;
  const told = { query, k: Number($("k").value) || 5, hybrid: $("hybrid").checked, refine: $("refine").checked, detail: true };
  const route = $("route_k").value.trim();
  if (route) told.route_k = /^\d+$/.test(route) ? Number(route) : route;
  const button = $("ask").querySelector("button");
  button.disabled = true;
  try {
    told.filter = json("filter");
    const began = performance.now();
    const found = await call(`${base()}/search`, told);
    if (turn !== asked) return;
    show(found, performance.now() - began);
    await explain(found.hits, told, turn);
  } catch (error) {
    if (turn === asked) fail(error);
  } finally {
    if (turn === asked) button.disabled = false;
  }
}

function show({ hits, hint, detail }, whole) {
  showTokens(detail);
  showStages(detail.milliseconds, whole);
  const compared = (detail.gathered + detail.refined).toLocaleString("en");
  const share = detail.full ? ` (${((100 * (detail.gathered + detail.refined)) / detail.full).toFixed(1)}% of all)` : "";
  $("cost").textContent = `${detail.lane} lane, ${detail.candidates} candidates, ${compared} comparisons${share}`;
  $("how").hidden = false;
  const shown = hits.map((hit, i) => passage(hit, i));
  if (!shown.length) shown.push(element("li", { class: "note" }, hint ? `No passage matches: ${hint}.` : "No passage matches."));
  $("hits").replaceChildren(...shown);
}

function showTokens({ tokens, scores, selected }) {
  const numbers = scores.map((score) => (typeof score === "number" ? score : -Infinity));
  const highest = Math.max(...numbers);
  const powers = numbers.map((score) => Math.exp(score - highest));
  const sum = powers.reduce((a, b) => a + b, 0) || 1;
  $("tokens").replaceChildren(
    ...tokens.flatMap((token, i) => {
      const share = powers[i] / sum;
      const routed = selected.includes(i);
      const title = `${(100 * share).toFixed(1)}% of the router's attention${routed ? ", routed" : ""}`;
      const made = element("span", { class: routed ? "token routed" : "token", title }, token);
      made.style.background = `rgba(var(--route), ${(0.5 * share) / (Math.max(...powers) / sum)})`;
      return [made, " "];
    }),
  );
}

function showStages(milliseconds, whole) {
  const spent = STAGES.map((name) => [name, milliseconds[name] || 0]);
  const sum = spent.reduce((all, [, taken]) => all + taken, 0) || 1;
  const bars = [];
  const legend = [];
  spent.forEach(([name, taken], i) => {
    if (!taken) return;
    const bar = element("span", { class: `stage s${i}`, title: `${name} ${taken.toFixed(2)} ms` });
    bar.style.width = `${(100 * taken) / sum}%`;
    bars.push(bar);
    legend.push(element("li", {}, element("span", { class: `swatch s${i}` }), `${name} ${taken.toFixed(2)} ms`));
  });
  legend.push(element("li", {}, `with the network ${whole.toFixed(0)} ms`));
  $("stages").replaceChildren(...bars);
  $("stages").setAttribute("aria-label", `${sum.toFixed(1)} milliseconds, by stage as listed below`);
  $("legend").replaceChildren(...legend);
}

function passage(hit, i) {
  const { title, ...rest } = hit.metadata;
  const titled = typeof title === "string" && title;
  const told = Object.entries(rest).map(([key, value]) => `${key}: ${typeof value === "string" ? value : JSON.stringify(value)}`);
  return element(
    "li",
    {},
    element(
      "article",
      { class: "hit", "aria-label": `Passage ${i + 1}` },
      element("h3", {}, `${i + 1}. ${titled || hit.id}`),
      element("p", { class: "meta" }, [`score ${hit.score.toFixed(3)}`, hit.id, ...told].join(" · ")),
      element("p", { class: "text" }, hit.text),
    ),
  );
}

// The evidence of each passage, best first. It costs an encoding each, so it comes after the passages.
async function explain(hits, told, turn) {
  for (const [i, hit] of hits.entries()) {
    let found;
    try {
      found = await call(`${base()}/explain`, { query: told.query, text: hit.text, route_k: told.route_k ?? null });
    } catch {
      return; // a model that cannot say where its tokens are, or a server that is busy: the passages stand without
    }
    if (turn !== asked) return;
    const article = $("hits").children[i].firstChild;
    article.querySelector(".text").replaceChildren(...marked(hit.text, found.spans));
    article.append(matches(found.tokens));
  }
}

// A text with its spans highlighted. Spans count code points, which a string of JavaScript does not.
function marked(text, spans) {
  const letters = Array.from(text);
  const strongest = Math.max(...spans.map((span) => span.weight), 1e-9);
  const pieces = [];
  let end = 0;
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    pieces.push(letters.slice(end, span.start).join(""));
    const made = element("mark", { title: `${(100 * span.weight).toFixed(1)}% of the evidence` }, letters.slice(span.start, span.end).join(""));
    made.style.background = `rgba(var(--mark), ${0.15 + (0.55 * span.weight) / strongest})`;
    pieces.push(made);
    end = span.end;
  }
  pieces.push(letters.slice(end).join(""));
  return pieces;
}

function matches(tokens) {
  const rows = tokens.map((one) => {
    const name = one.routed ? element("b", {}, one.token) : one.token;
    const cells = [name, `${(100 * one.weight).toFixed(1)}%`, one.similarity.toFixed(3), one.matched];
    return element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
  });
  const heads = ["query token", "weight", "similarity", "matched"].map((name) => element("th", { scope: "col" }, name));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
  return element("details", {}, element("summary", {}, "What each token matched"), table);
}

async function add() {
  $("error").hidden = true;
  $("added").textContent = "";
  try {
    const document = { text: $("new-text").value, metadata: json("new-metadata") };
    const id = $("new-id").value.trim();
    if (id) document.id = id;
    const { ids } = await call(`${base()}/documents`, { documents: [document] });
    $("add").reset();
    $("added").textContent = `Stored as ${ids[0]}.`;
    await about();
  } catch (error) {
    fail(error);
  }
}

function on(id, kind, act) {
  $(id).addEventListener(kind, (event) => {
    event.preventDefault();
    act();
  });
}

on("ask", "submit", search);
on("add", "submit", add);
on("index", "change", () => about().catch(fail));
on("access-form", "submit", () => {
  sessionStorage.setItem(KEY, $("key").value.trim());
  $("key").value = "";
  $("access").open = false;
  start();
});
start();
