// The charts: what each shows follows from the rows chosen in their legend, which all of them share.

const charts = []; // {figure, draw, drawn}
const PATTERNS = ["", "/", "x", ".", "\\", "+", "-", "|"];
let study; // the pack `charts`
const shown = new Set(); // indices of rows

/** Text as Plotly shows it as it is. */
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const brief = (text) => (innerWidth < 600 && text.length > 18 ? `${text.slice(0, 17)}\u2026` : text);
const style = (name) => {
  const probe = $("#theme");
  probe.style.outlineColor = `var(--${name})`;
  const colour = getComputedStyle(probe).outlineColor;
  probe.style.outlineColor = "";
  return colour;
};

/** A row's colour; on a dark page a lighter one of the same hue. */
function tone(colour, alpha = 1) {
  const mixed = [1, 3, 5].map((i) => {
    const part = parseInt(colour.slice(i, i + 2), 16);
    return Math.round(isDark() ? part + 0.4 * (255 - part) : part);
  });
  return `rgba(${mixed.join(",")},${alpha})`;
}

function layout(changes) {
  const [ink, line] = [style("ink"), style("line")];
  const axis = { gridcolor: line, zerolinecolor: ink, linecolor: line, automargin: true, tickcolor: line };
  const { xaxis, yaxis, ...others } = changes;
  return {
    font: { family: "system-ui, sans-serif", size: innerWidth < 600 ? 11 : 13, color: ink },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
    margin: { l: 50, r: 12, t: 12, b: 45 }, height: 460, dragmode: innerWidth < 600 ? false : "zoom",
    hoverlabel: { bgcolor: style("raised"), font: { color: ink }, align: "left" },
    modebar: { bgcolor: style("paper"), color: style("soft"), activecolor: style("accent") },
    xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...others,
  };
}

function draw(chart, traces, changes) {
  const laid = layout(changes);
  chart.plot.style.height = `${laid.height}px`; // else Plotly knows no height when the window changes
  Plotly.react(chart.plot, traces, laid, {
    responsive: true, displaylogo: false, displayModeBar: innerWidth < 600 ? false : "hover", plotlyServerURL: "",
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
  }).catch(complain);
}

function redraw() {
  for (const chart of charts) if (chart.drawn) chart.draw();
  drawKeys();
}

/** Fill a chart's figure; it is drawn when it comes into view. */
function chart(name, controls, drawn) {
  const figure = $(`#chart-${name}`);
  const plot = make("div", { className: "plot" });
  const bar = make("div", { className: "controls" });
  const note = make("p", { className: "said" });
  const one = { figure, plot, note, drawn: false, draw: () => drawn(one) };
  bar.append(...controls(() => one.draw()));
  figure.append(bar, legendOf(), plot, note);
  charts.push(one);
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    one.drawn = true;
    one.draw();
  }, { rootMargin: "300px" }).observe(figure);
}

const SVG = "http://www.w3.org/2000/svg";
const SHAPES = { circle: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0", square: "M-4-4h8v8h-8z", "triangle-up": "M0-5l5 9h-10z", diamond: "M0-5l5 5-5 5-5-5z", "triangle-down": "M0 5l5-9h-10z", cross: "M-2-5h4v3h3v4h-3v3h-4v-3h-3v-4h3z", hexagon: "M-5 0l2.5-4.3h5l2.5 4.3-2.5 4.3h-5z" };

function keyOf(row) {
  const picture = document.createElementNS(SVG, "svg");
  const attributes = { width: 28, height: 12, viewBox: "-14 -6 28 12", "aria-hidden": "true" };
  for (const [name, value] of Object.entries(attributes)) picture.setAttribute(name, value);
  for (const d of ["M-14 0H14", SHAPES[row.marker]]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    path.style.cssText = `stroke:${tone(row.colour)};stroke-width:${row.width};fill:${tone(row.colour)}`;
    if (d.startsWith("M-14") && row.dash !== "solid") path.style.strokeDasharray = row.dash;
    picture.append(path);
  }
  return picture;
}

/** The rows shown, and those to choose from: one choice for all charts. */
function legendOf() {
  const choose = (rows) => () => {
    shown.clear();
    for (const row of rows) shown.add(row);
    chosen();
  };
  const all = make("div", { className: "controls" },
    button("main", choose(study.shown)), button("all", choose(study.best)), button("none", choose([])));
  return make("div", { className: "rowkeys" }, make("div", { className: "keys" }),
    make("details", {}, make("summary", {}), all, make("div", { className: "keys hidden" })));
}

function keyButton(index, legend) {
  const row = study.rows[index];
  const key = button("", () => {
    shown.has(index) ? shown.delete(index) : shown.add(index);
    chosen();
    $(`[data-row="${index}"]`, legend).focus();
  });
  key.dataset.row = index;
  key.setAttribute("aria-pressed", shown.has(index));
  key.append(keyOf(row), row.title);
  return key;
}

function drawKeys() {
  for (const legend of $$(".rowkeys")) {
    const [visible, hidden] = $$(".keys", legend);
    const others = study.best.filter((index) => !shown.has(index));
    $("summary", legend).textContent = `${shown.size} of ${study.rows.length} rows shown: show others`;
    visible.replaceChildren(...inOrder().map((index) => keyButton(index, legend)));
    hidden.replaceChildren(...others.map((index) => keyButton(index, legend)));
  }
}

function chosen() {
  redraw();
  document.dispatchEvent(new Event("rows"));
}

const inOrder = () => study.best.filter((index) => shown.has(index));

/** The looks of a row's line. */
function looks(row) {
  return {
    mode: "lines+markers", hoverinfo: "text", name: plain(row.title),
    line: { color: tone(row.colour), dash: row.dash, width: row.width },
    marker: { color: tone(row.colour), symbol: row.marker, size: 8 },
  };
}

const bars = (row, plus, minus) => ({
  type: "data", symmetric: false, array: plus, arrayminus: minus, color: tone(row.colour, 0.65), thickness: 1.2, width: 3,
});
const ofBenchmarks = (state, again) =>
  study.benchmarks.length < 2 ? [] : [choice("Benchmark", numbered(study.benchmarks.map((one) => one.title)), (value) => ((state.benchmark = Number(value)), again()))];
/** Lines at the same budget stand a little apart, so that their intervals can be told apart. */
function apart(x, place, rows, logarithmic) {
  const by = Math.min(0.012, 0.12 / rows) * (place - (rows - 1) / 2);
  return logarithmic ? x * Math.exp(by) : x + (by / 3) * study.budgets.at(-1);
}
const budgetAxis = (logarithmic) => ({
  title: { text: `FLOPs (${study.unit})` }, type: logarithmic ? "log" : "linear", tickvals: study.budgets, ticktext: study.budgets.map((budget) => String(Number(budget.toPrecision(3)))),
});

function accuracyChart() {
  const state = { benchmark: 0, tier: "0", logarithmic: true, intervals: "bars", seeds: false };
  const controls = (again) => {
    const tiers = make("span");
    const offer = () => {
      state.tier = "0";
      const titles = study.benchmarks[state.benchmark].tiers;
      tiers.replaceChildren(...(titles.length > 1 ? [choice("Problems", numbered(titles), (value) => ((state.tier = value), again()))] : []));
    };
    offer();
    return [
      ...ofBenchmarks(state, () => (offer(), again())), tiers,
      choice("Axis", [["log", "logarithmic"], ["linear", "linear"]], (value) => ((state.logarithmic = value === "log"), again())),
      choice("95 % intervals", [["bars", "bars"], ["bands", "bands"], ["none", "none"]], (value) => ((state.intervals = value), again())),
      tick("every training seed", false, (value) => ((state.seeds = value), again())),
    ];
  };
  chart("accuracy", controls, (one) => {
    const benchmark = study.benchmarks[state.benchmark];
    const traces = [];
    inOrder().forEach((index, place, all) => {
      const row = study.rows[index];
      const points = benchmark.scores[state.tier][index].map((point, i) => point && [...point, i]).filter(Boolean);
      if (!points.length) return;
      // The base model spends nothing: its line runs over all budgets.
      const x = points.map(([spent, ...rest]) => (row.kind === "base model" ? study.budgets[rest.at(-1)] : apart(spent, place, all.length, state.logarithmic)));
      const column = (i) => points.map((point) => 100 * point[i]);
      const [y, low, high] = [column(1), column(2), column(3)];
      const hovertext = points.map(([spent, mean, from, to, ...rest]) =>
        `<b>${plain(row.title)}</b><br>spent ${spent} ${study.unit}<br>${percent(mean)} % [${percent(from)}, ${percent(to)}]<br>seeds: ${rest.slice(0, -1).map((score) => percent(score)).join(", ")}`);
      if (state.intervals === "bands")
        traces.push({ x: [...x, ...x.toReversed()], y: [...high, ...low.toReversed()], fill: "toself", fillcolor: tone(row.colour, 0.15), line: { width: 0 }, mode: "lines", hoverinfo: "skip" });
      if (state.seeds)
        study.seeds.forEach((seed, s) => traces.push({ x, y: column(4 + s), mode: "markers", hoverinfo: "text", hovertext: points.map((point) => `${plain(row.title)}<br>seed ${seed}: ${percent(point[4 + s])} %`), marker: { color: tone(row.colour), symbol: `${row.marker}-open`, size: 5 } }));
      const error_y = state.intervals === "bars" ? bars(row, high.map((value, i) => value - y[i]), y.map((value, i) => value - low[i])) : undefined;
      traces.push({ ...looks(row), x, y, hovertext, error_y });
    });
    draw(one, traces, { xaxis: budgetAxis(state.logarithmic), yaxis: { title: { text: `${plain(benchmark.title)} (%)` } } });
    one.note.textContent = `Score: ${benchmark.metric}. Rows stand a little apart along the FLOPs; hover tells what each spent.`;
  });
}

function differencesChart() {
  const state = { benchmark: 0, against: null, budget: "all" };
  const controls = (again) => {
    const references = make("span");
    const offer = () => {
      const { against } = study.benchmarks[state.benchmark];
      state.against = against[0];
      references.replaceChildren(choice("Against", against.map((i) => [String(i), study.rows[i].title]), (value) => ((state.against = Number(value)), again())));
    };
    offer();
    return [
      ...ofBenchmarks(state, () => (offer(), again())), references,
      choice("At", [["all", "every budget"], ...numbered(study.budgetTitles)], (value) => ((state.budget = value), again())),
    ];
  };
  const told = (row, budget, [mean, low, high, p]) =>
    `<b>${plain(row.title)}</b><br>at ${study.budgetTitles[budget]}: ${signed(mean)} [${signed(low)}, ${signed(high)}]<br>p ${p < 0.001 ? "< .001" : p.toFixed(3)} after Holm`;
  chart("differences", controls, (one) => {
    const found = study.benchmarks[state.benchmark].differences.filter(([against]) => against === state.against);
    const of = (index) => found.filter((line) => line[1] === index);
    one.note.textContent = "Percentage points, paired by problem, with 95 % intervals. Open markers: not significant at 0.05 after Holm.";
    if (state.budget !== "all") {
      const lines = inOrder().flatMap((index) => of(index).filter((line) => line[2] === Number(state.budget)));
      const hover = ([, index, budget, ...rest]) => told(study.rows[index], budget, rest);
      forest(one, lines.map((line) => [line[1], ...line.slice(3), hover(line)]), "difference (percentage points)", "linear");
      return;
    }
    const traces = inOrder().filter((index) => of(index).length).map((index, place, all) => {
      const row = study.rows[index];
      const points = of(index);
      const looked = looks(row);
      looked.marker.symbol = points.map((point) => row.marker + (point[6] < 0.05 ? "" : "-open"));
      return {
        ...looked, x: points.map((point) => apart(study.budgets[point[2]], place, all.length, true)), y: points.map((point) => 100 * point[3]),
        error_y: bars(row, points.map((point) => 100 * (point[5] - point[3])), points.map((point) => 100 * (point[3] - point[4]))),
        hovertext: points.map(([, , budget, ...rest]) => told(row, budget, rest)),
      };
    });
    draw(one, traces, { xaxis: budgetAxis(true), yaxis: { title: { text: "difference (points)" }, zeroline: true } });
  });
}

/** One number with its interval for each row, in percent of `scale`: [row, mean, low, high, p, hover]. */
function forest(one, lines, title, type, range) {
  const scale = type === "log" ? 1 : 100;
  const sorted = lines.toSorted((a, b) => (a[1] ?? Infinity) - (b[1] ?? Infinity));
  if (type === "log") sorted.reverse();
  const traces = sorted.map(([index, mean, low, high, p, hover], y) => {
    const row = study.rows[index];
    const looked = looks(row);
    looked.marker.symbol = row.marker + (p < 0.05 ? "" : "-open");
    looked.marker.size = 10;
    return {
      ...looked, mode: "markers", x: [scale * mean], y: [y], hovertext: [hover],
      error_x: { ...bars(row, [scale * (high - mean)], [scale * (mean - low)]), thickness: 2, width: 4 },
    };
  });
  const titles = sorted.map(([index]) => plain(brief(study.rows[index].title)));
  const across = type === "log" ? 1 : 0;
  draw(one, traces, {
    height: 110 + 24 * Math.max(2, sorted.length), xaxis: { title: { text: title }, type, range },
    yaxis: { tickvals: sorted.map((_, i) => i), ticktext: titles, range: [-0.7, sorted.length - 0.3], showgrid: false, zeroline: false },
    shapes: [{ type: "line", x0: across, x1: across, y0: 0, y1: 1, yref: "paper", line: { color: style("soft"), width: 1 } }],
  });
}

function ratiosChart() {
  if (!study.benchmarks.some((one) => one.ratios.length)) return void $("#chart-ratios").remove();
  const state = { benchmark: 0, against: null };
  const controls = (again) => {
    const references = make("span");
    const offer = () => {
      const against = [...new Set(study.benchmarks[state.benchmark].ratios.map(([other]) => other))];
      state.against = against.at(-1);
      references.replaceChildren(choice("FLOPs as a multiple of those of", against.map((i) => [String(i), study.rows[i].title]), (value) => ((state.against = Number(value)), again()), String(state.against)));
    };
    offer();
    return [...ofBenchmarks(state, () => (offer(), again())), references];
  };
  chart("ratios", controls, (one) => {
    const lines = study.benchmarks[state.benchmark].ratios.filter(([against, index, ratio, low]) => against === state.against && shown.has(index) && ratio && low);
    const ends = lines.flatMap(([, , ...numbers]) => numbers.slice(0, 3).filter(Boolean).map(Math.log10));
    const range = [Math.max(-2, Math.min(-0.1, ...ends)) - 0.1, Math.min(2, Math.max(0.1, ...ends)) + 0.1];
    forest(one, lines.map(([, index, ratio, low, high, score]) => {
      const top = high ?? 1e6; // nothing bounds it: out of sight
      return [index, ratio, low, top, low > 1 || (high ?? Infinity) < 1 ? 0 : 1, `<b>${plain(study.rows[index].title)}</b><br>\u00d7 ${ratio.toPrecision(3)} [${low.toPrecision(3)}, ${high?.toPrecision(3) ?? "\u221e"}]<br>at ${percent(score)} %`];
    }), "× FLOPs to the same score", "log", range);
    one.note.textContent = "Of the rows shown, those with a ratio and a lower bound above 0; less is cheaper. The table below has all. Open markers: the interval holds 1.";
  });
}

function spendChart() {
  let view = study.spend[0];
  const controls = (again) => [choice("Show", numbered(study.spend.map((one) => one.title)), (value) => ((view = study.spend[value]), again()))];
  chart("spend", controls, (one) => {
    const rows = inOrder().reverse();
    const titles = rows.map((index) => plain(brief(study.rows[index].title)));
    const traces = view.bars.map(([name, colour, values], i) => ({
      type: "bar", orientation: "h", name, x: rows.map((index) => values[index]), y: rows.map((_, y) => y), hoverinfo: "text",
      hovertext: rows.map((index) => `<b>${plain(study.rows[index].title)}</b><br>${name}: ${values[index] ?? "unknown"}`),
      marker: { color: tone(colour || study.rows[i % study.rows.length].colour), line: { color: style("paper"), width: 1 }, pattern: { shape: PATTERNS[i % PATTERNS.length], fillmode: "overlay", fgcolor: style("paper"), size: 6, solidity: 0.25 } },
    }));
    const each = view.stacked ? 26 : 14 * traces.length;
    draw(one, traces, {
      barmode: view.stacked ? "stack" : "group", showlegend: true, legend: { orientation: "h", y: 1.02, yanchor: "bottom", traceorder: "normal" },
      height: 150 + each * Math.max(2, rows.length), xaxis: { title: { text: view.title } }, yaxis: { tickvals: rows.map((_, y) => y), ticktext: titles, showgrid: false, zeroline: false },
    });
    one.note.textContent = "Up to the top budget, mean over training seeds.";
  });
}

async function monitorsChart() {
  const { monitors } = await packed("monitors");
  const state = { monitor: 0, seeds: false };
  const controls = (again) => [
    choice("Monitor", numbered(monitors.map(([title]) => title)), (value) => ((state.monitor = Number(value)), again())),
    tick("every training seed", false, (value) => ((state.seeds = value), again())),
  ];
  chart("monitors", controls, (one) => {
    const [title, runs] = monitors[state.monitor];
    const values = Object.values(runs).flatMap((lines) => lines.flatMap((line) => line?.[1] ?? []));
    const logarithmic = Math.min(...values) > 0 && 1000 * Math.min(...values) < Math.max(...values);
    const traces = inOrder().filter((index) => runs[index]).flatMap((index) => {
      const row = study.rows[index];
      const [mean, ...seeds] = runs[index];
      const line = ([x, y], changes, told) => ({
        ...looks(row), x, y, hovertext: y.map((value, i) => `<b>${plain(row.title)}</b>${told}<br>at ${x[i]} ${study.unit}: ${value}`), ...changes,
      });
      const thin = seeds.map((seed) => line(seed, { mode: "lines", opacity: 0.4, line: { color: tone(row.colour), width: 1 } }, ", one seed"));
      return [...(state.seeds || !mean ? thin : []), ...(mean ? [line(mean, { marker: { color: tone(row.colour), symbol: row.marker, size: 5 } }, "")] : [])];
    });
    draw(one, traces, { xaxis: { title: { text: `spent FLOPs (${study.unit})` } }, yaxis: { title: { text: plain(brief(title)) }, type: logarithmic ? "log" : "linear" } });
    const there = study.best.filter((index) => runs[index]).length;
    one.note.textContent = `${title}: ${there} rows have it, ${traces.length ? "those shown above are drawn" : "none of those shown"}. Mean over training seeds; of long runs not every round is drawn.`;
  });
}
