"use strict";
// The report's tables, charts and problem explorer. Data come in packs (repro/reporting/page_data.py). Texts
// of a study are only ever set as text, or pass through `plain` on their way to Plotly, which reads tags.

const $ = (selector, at = document) => at.querySelector(selector);
const $$ = (selector, at = document) => [...at.querySelectorAll(selector)];

/** A new element: properties by name, attributes where the name has a dash, children as nodes or texts. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

const button = (text, onclick) => make("button", { type: "button", onclick }, text);

/** A labelled choice; `options` are [value, text]. */
function choice(label, options, onchange, chosen = options[0]?.[0]) {
  const select = make("select", { onchange: () => onchange(select.value) });
  for (const [value, text] of options) select.append(make("option", { value, selected: value === chosen }, text));
  return make("label", {}, label, select);
}

function tick(label, checked, onchange) {
  const box = make("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return make("label", {}, box, label);
}

const numbered = (titles) => titles.map((title, i) => [String(i), title]);
const percent = (value, digits = 1) => (100 * value).toFixed(digits);
const signed = (value) => (value > 0 ? "+" : "") + percent(value).replace("-", "\u2212");

// ------------------------------------------------------------------------------------------------ data

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/** A pack's JSON, with its columns as arrays of integers. */
async function unpack(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const content = new Uint8Array(await new Response(stream).arrayBuffer());
  let at = 4 + new DataView(content.buffer).getUint32(0, true);
  const found = JSON.parse(new TextDecoder().decode(content.subarray(4, at)));
  for (const [name, [length, width]] of Object.entries(found.columns)) {
    const column = new Uint32Array(length);
    for (let plane = 0; plane < width; plane++, at += length)
      for (let i = 0; i < length; i++) column[i] += content[at + i] * 256 ** plane;
    found.columns[name] = column;
  }
  return found;
}

const opened = {};
/** The pack of that name, unpacked once; null where the page has none. */
function packed(name) {
  const script = document.getElementById(`pack-${name}`);
  opened[name] ??= script ? unpack(bytesOf(script.textContent)) : Promise.resolve(null);
  return opened[name];
}

function complain(error) {
  const place = $("#trouble");
  place.hidden = false;
  place.textContent = `A part of this page cannot be shown: ${error.message ?? error}. A browser of 2024 or later shows all.`;
}

// --------------------------------------------------------------------------------------- page and tables

function contents() {
  const list = make("ul");
  for (const part of $$(".part")) {
    const inner = make("ul");
    for (const one of $$(".table, .chart", part)) {
      const target = one.matches(".table") ? $("table", one) : one;
      inner.append(make("li", {}, make("a", { href: `#${target.id}` }, $("summary, figcaption", one).textContent)));
    }
    list.append(make("li", {}, make("a", { href: `#${part.id}` }, $("h2", part).textContent), inner));
  }
  $("#contents").append(list);
  $("#contents").open = matchMedia("(min-width: 1250px)").matches;
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.matches("details")) at.open = true;
    target?.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  list.addEventListener("click", (event) => event.target.hash === location.hash && reveal());
  if (location.hash) reveal();
}

/** On paper all is open, and light. */
function printing() {
  const { dataset } = document.documentElement;
  let closed = [];
  let theme;
  addEventListener("beforeprint", () => {
    closed = $$("main details:not([open])");
    for (const one of closed) one.open = true;
    theme = dataset.theme;
    dataset.theme = "light";
    redraw();
  });
  addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
    dataset.theme = theme ?? "";
    redraw();
  });
}

const isDark = () => {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

function themes() {
  const toggle = $("#theme");
  const name = () => {
    toggle.textContent = isDark() ? "Light" : "Dark";
    toggle.title = `Show the page ${isDark() ? "light" : "dark"}`;
  };
  toggle.onclick = () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    name();
    redraw();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (name(), redraw()));
  name();
}

const UNITS = { M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18 };
const NUMBER = /^[<>\u2265]?\s*([+\u2212-]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?)\s*(?:([MGTPE])FLOP)?/;

/** What a cell is sorted by: the number that its first line begins with, or that line; null for no value. */
function sortKey(cell) {
  const text = (cell.firstChild?.textContent ?? "").trim();
  if (["", "X", "\u2013", "not reached", "no gain"].includes(text)) return null;
  const found = NUMBER.exec(text);
  if (!found) return text;
  return Number(found[1].replaceAll(",", "").replace("\u2212", "-")) * (UNITS[found[2]] ?? 1);
}

function compare(a, b) {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
  return typeof a === "number" ? -1 : 1;
}

/** Sort by a column: down, up, and as it was; cells without a value stay last. */
function sortable(table, key = sortKey) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  $$("thead th", table).forEach((head, column) => {
    const inside = make("button", { type: "button", title: "Sort" }, ...head.childNodes);
    head.replaceChildren(inside);
    inside.onclick = () => {
      const next = { null: "descending", descending: "ascending", ascending: null }[head.getAttribute("aria-sort")];
      for (const other of $$("thead th", table)) other.removeAttribute("aria-sort");
      if (next) head.setAttribute("aria-sort", next);
      const keyed = original.map((row) => [key(row.cells[column]), row]);
      if (next) {
        const direction = next === "ascending" ? 1 : -1;
        keyed.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : direction * compare(a, b)));
      }
      body.append(...keyed.map(([, row]) => row));
    };
  });
}

function copyButton(label, text, said) {
  return button(label, async () => {
    try {
      await navigator.clipboard.writeText(await text());
      said.textContent = `${label.replace("Copy ", "")} copied`;
    } catch {
      const area = make("textarea", { value: await text() });
      document.body.append(area);
      area.select();
      said.textContent = document.execCommand("copy") ? `${label.replace("Copy ", "")} copied` : "not copied";
      area.remove();
    }
  });
}

/** Sort and copy for every table; filters by text for a long one, by kind and objective for one that has them. */
function tables() {
  for (const holder of $$(".table")) {
    const table = $("table", holder);
    const rows = [...table.tBodies[0].rows];
    const heads = $$("th", table).map((head) => head.textContent);
    sortable(table);
    const said = make("span", { className: "said", role: "status" });
    const controls = make("div", { className: "controls" });
    let words = "";
    const chosen = new Map();
    const filter = () => {
      let left = 0;
      for (const row of rows) {
        const fits = row.textContent.toLowerCase().includes(words) && [...chosen].every(([at, value]) => !value || row.cells[at].textContent === value);
        row.hidden = !fits;
        left += fits;
      }
      said.textContent = left < rows.length ? `${left} of ${rows.length} rows` : "";
    };
    for (const name of ["Kind", "Objective"].filter((name) => heads.includes(name))) {
      const at = heads.indexOf(name);
      const values = [...new Set(rows.map((row) => row.cells[at].textContent))];
      controls.append(choice(name, [["", "all"], ...values.map((value) => [value, value])], (value) => (chosen.set(at, value), filter())));
    }
    if (rows.length > 8) {
      const search = make("input", { type: "search", placeholder: "filter rows", "aria-label": "Filter rows" });
      search.oninput = () => ((words = search.value.trim().toLowerCase()), filter());
      controls.append(search);
    }
    ["LaTeX", "Markdown", "CSV"].forEach((name, i) => {
      controls.append(copyButton(`Copy ${name}`, async () => (await packed("copies"))[holder.dataset.table][i], said));
    });
    controls.append(said);
    $(".scroll", holder).before(controls);
    $(".scroll", holder).setAttribute("role", "region");
    $(".scroll", holder).setAttribute("aria-label", $("summary", holder).textContent);
  }
}
