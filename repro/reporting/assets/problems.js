// The problem explorer: a list of problems with each row's share of right completions, and what was answered.

const MARKS = { correct: "✓", wrong: "✗", unparsable: "?", timeout: "⏱" };
const EACH = 50; // problems at a time
const DETAILS = "report-details.gz";

async function explorer() {
  const { columns, none, questions } = await packed("counts");
  let details = await packed("details");
  const place = $("#explorer");
  const top = String(study.budgets.length - 1);
  const state = { benchmark: 0, budget: top, tier: "", words: "", by: "", notBy: "", limit: EACH, sort: null };

  /** [right, completions] of a row on a problem at a budget, over training seeds. */
  function solved(index, problem, budget = Number(state.budget)) {
    const { problems, k } = study.benchmarks[state.benchmark];
    const seeds = study.seeds.length;
    const at = ((index * study.budgets.length + budget) * problems.length + problem) * seeds;
    const there = [...columns[state.benchmark].subarray(at, at + seeds)].filter((count) => count !== none);
    return [there.reduce((sum, count) => sum + count, 0), k * there.length];
  }
  const share = (index, problem) => {
    const [right, all] = solved(index, problem);
    return all ? right / all : null;
  };
  const mean = (problem) => {
    const known = study.rows.map((_, index) => share(index, problem)).filter((value) => value !== null);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  };

  function fits(problem) {
    const { problems, tierOf } = study.benchmarks[state.benchmark];
    const half = (index) => (share(index, problem) ?? 0) >= 0.5;
    if (state.tier && tierOf[problem] !== Number(state.tier)) return false;
    if (state.by && !half(state.by)) return false;
    if (state.notBy && (half(state.notBy) || share(state.notBy, problem) === null)) return false;
    if (!state.words) return true;
    const [question, gold] = questions[state.benchmark][problem] ?? ["", ""];
    const answers = details?.benchmarks[state.benchmark].outcomes[problem].map(([, answer]) => answer) ?? [];
    const named = [problems[problem], question].some((text) => text.toLowerCase().includes(state.words));
    return named || [gold, ...answers].some((text) => text?.toLowerCase() === state.words);
  }

  const count = make("span", { className: "said", role: "status" });
  const list = make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Problems" });
  const more = button("", () => ((state.limit += EACH), show()));

  function shaded(value) {
    const cell = make("td", {}, value === null ? "X" : percent(value, 0));
    if (value !== null) {
      cell.className = "share";
      cell.style.setProperty("--of", value.toFixed(3));
    }
    return cell;
  }

  function show() {
    const { problems, tierOf, tiers } = study.benchmarks[state.benchmark];
    const rows = inOrder();
    const asked = questions[state.benchmark].some(Boolean);
    const found = problems.map((_, problem) => problem).filter(fits);
    const columnsOf = [
      ["Problem", (problem) => problems[problem]],
      ...(tiers.length > 1 ? [["Tier", (problem) => tierOf[problem]]] : []),
      ...(asked ? [["Question", (problem) => questions[state.benchmark][problem]?.[0] ?? ""], ["Gold", (problem) => questions[state.benchmark][problem]?.[1] ?? ""]] : []),
      ["all rows", mean],
      ...rows.map((index) => [study.rows[index].title, (problem) => share(index, problem)]),
    ];
    const sortBy = columnsOf.find(([name]) => name === state.sort?.[0]);
    if (sortBy) {
      const keyed = found.map((problem) => [sortBy[1](problem), problem]);
      keyed.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : state.sort[1] * compare(a, b)));
      found.splice(0, Infinity, ...keyed.map(([, problem]) => problem));
    }
    const heads = columnsOf.map(([name], i) => {
      const tall = name === "all rows" || i >= columnsOf.length - rows.length;
      const head = make("th", { className: i ? "" : "frozen left" }, make("button", { type: "button", title: `Sort by ${name}` }, make("span", { className: tall ? "tall" : "" }, name)));
      if (state.sort?.[0] === name) head.setAttribute("aria-sort", state.sort[1] > 0 ? "ascending" : "descending");
      head.firstChild.onclick = () => {
        state.sort = state.sort?.[0] === name && state.sort[1] < 0 ? [name, 1] : [name, -1];
        show();
        $$("th button", list)[i]?.focus();
      };
      return head;
    });
    const body = found.slice(0, state.limit).map((problem) => {
      const line = make("tr", {}, make("td", { className: "frozen left" }, button(problems[problem], () => open(problem))));
      for (const [name, value] of columnsOf.slice(1)) {
        if (name === "Tier") line.append(make("td", { className: "left" }, tiers[tierOf[problem]]));
        else if (name === "Question") line.append(make("td", { className: "question" }, value(problem)));
        else if (name === "Gold") line.append(make("td", {}, value(problem)));
        else line.append(shaded(value(problem)));
      }
      return line;
    });
    list.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...body)));
    count.textContent = `${found.length} of ${problems.length} problems`;
    more.hidden = found.length <= state.limit;
    more.textContent = `Show ${Math.min(EACH, found.length - state.limit)} more`;
  }

  /** A dialog with what every row answered to a problem. */
  function open(problem) {
    const { problems, tierOf, tiers } = study.benchmarks[state.benchmark];
    const [question, gold] = questions[state.benchmark][problem] ?? [];
    const dialog = $("#problem");
    const whole = make("div");
    const fill = (all) => whole.replaceChildren(...(all ? study.best : inOrder()).map((index) => answersOf(index, problem)));
    fill(false);
    const close = button("Close", () => dialog.close());
    close.className = "close";
    dialog.replaceChildren(
      close, make("h2", {}, problems[problem]), make("p", { className: "said" }, tiers.length > 1 ? tiers[tierOf[problem]] : ""),
      ...(question ? [make("pre", {}, question), make("p", {}, `Gold answer: ${gold}`)] : []),
      make("p", { className: "said" }, "Right completions over training seeds, at each budget; open a row for its completions."),
      make("div", { className: "controls" }, tick("all rows", false, fill)), whole,
    );
    dialog.showModal();
  }

  function answersOf(index, problem) {
    const row = study.rows[index];
    const tallies = study.budgets.map((_, budget) => solved(index, problem, budget));
    const told = tallies.map(([right, all]) => (all ? `${right}/${all}` : "X")).join("  ");
    const one = make("details", {}, make("summary", {}, keyOf(row), ` ${row.title} `, make("span", { className: "tally" }, told)));
    one.ontoggle = () => {
      if (one.open && one.children.length < 2) one.append(details ? completions(index, problem) : make("p", {}, `The completions are in ${DETAILS}.`));
    };
    return one;
  }

  function completions(index, problem) {
    const about = details.benchmarks[state.benchmark];
    const column = (name) => details.columns[`${state.benchmark}.${name}`];
    const holder = make("div", { className: "runs" });
    study.budgetTitles.forEach((title, budget) => {
      const runs = about.runs.flatMap((run, i) => (run[0] === index && run[2] === budget ? [[run[1], i]] : []));
      if (runs.length) holder.append(make("b", {}, `at ${title}`));
      for (const [seed, run] of runs) {
        const chips = make("span", { className: "chips" });
        for (let slot = about.greedy ? 0 : 1; slot < about.slots; slot++) {
          const at = (problem * about.runs.length + run) * about.slots + slot;
          const [verdict, answer, finish] = about.outcomes[problem][column("outcome")[at]];
          const text = about.texts?.[problem][column("text")[at]];
          const said = `${MARKS[verdict]} ${answer || (answer === null ? "(not recorded)" : "(no answer)")} · ${column("tokens")[at]} tokens${finish === "length" ? ", cut" : ""}${slot ? "" : ", greedy"}`;
          const chip = text ? make("details", {}, make("summary", {}, said), make("pre", {}, text)) : make("span", {}, said);
          chip.title = verdict;
          chip.classList.add(verdict);
          chips.append(chip);
        }
        holder.append(make("span", {}, `seed ${study.seeds[seed]}`), chips);
      }
    });
    return holder;
  }

  /** Asks for the file beside the page, which the page may not open by itself. */
  function picker() {
    const file = make("input", { type: "file", accept: ".gz" });
    const asked = make("p", { className: "banner" }, make("label", {}, `What was answered is in ${DETAILS}, beside this page, which would be too large with it. To see it, open that file: `, file));
    file.onchange = async () => {
      try {
        details = await unpack(await file.files[0].arrayBuffer());
        asked.remove();
        show();
      } catch {
        file.setCustomValidity(`This is not the ${DETAILS} of this page.`);
        file.reportValidity();
      }
    };
    return asked;
  }

  const changed = (name) => (value) => {
    state[name] = value;
    state.limit = EACH;
    show();
  };
  const search = make("input", { type: "search", placeholder: "id, question or answer", "aria-label": "Search in problems" });
  search.oninput = () => changed("words")(search.value.trim().toLowerCase());
  const tiers = make("span");
  const offer = () => {
    const titles = study.benchmarks[state.benchmark].tiers;
    state.tier = "";
    tiers.replaceChildren(...(titles.length > 1 ? [choice("Tier", titles.map((title, i) => [i ? String(i) : "", title]), changed("tier"))] : []));
  };
  offer();
  const rows = [["", "any"], ...study.best.map((index) => [String(index), study.rows[index].title])];
  const rowChoices = make("div", { className: "controls" }, choice("Solved by", rows, changed("by")), choice("and not by", rows, changed("notBy")));
  place.append(
    ...(details ? [] : [picker()]),
    make("div", { className: "controls" }, ...ofBenchmarks(state, () => (offer(), show())), choice("At", numbered(study.budgetTitles), changed("budget"), top), tiers, search, count),
    rowChoices, legendOf(), list, more,
    make("p", { className: "said" }, "Percent of a row's sampled completions that are right, over training seeds. Solved: at least half of them. Open a problem for its answers."),
  );
  document.addEventListener("rows", show);
  show();
}

async function start() {
  themes();
  contents();
  printing();
  tables();
  study = await packed("charts");
  for (const index of study.shown) shown.add(index);
  accuracyChart();
  differencesChart();
  ratiosChart();
  spendChart();
  if ($("#chart-monitors")) await monitorsChart();
  await explorer();
  drawKeys();
  document.body.dataset.ready = "yes";
}

start().catch(complain);
