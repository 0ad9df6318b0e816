"use strict";
// The page to try out a bundle. Everything from the service is shown as text, never as markup.

const $ = (id) => document.getElementById(id);
const TOKEN = "twotower-token";
const MOST_SHARES = 12;
const SVG = "http://www.w3.org/2000/svg";
const BASES = {
  query: "based on this user's choices",
  features: "new user: based on what you entered",
  popularity: "most popular: nothing is known yet",
  candidate: "similar items",
};
const LABELS = { recent_popularity: "recent popularity", item_knn: "item-kNN", ease: "EASE", ials: "iALS", mrr: "MRR" };
const state = { model: null, mode: "known", who: null, liked: [], attributes: {}, filters: {}, titles: new Map(), asked: 0 };

function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.map((child) => (child instanceof Node ? child : document.createTextNode(child))));
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Asking the service

class Problem extends Error {
  constructor(error) {
    super(error.message);
    this.code = error.code;
    this.field = error.field;
  }
}

async function ask(path, body) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.authorization = `Bearer ${token}`;
  if (body) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  } catch {
    throw new Problem({ code: "unreachable", message: "Cannot reach the service. Check your connection." });
  }
  const read = await answer.json();
  if (answer.status === 401) {
    await askForToken();
    return ask(path, body);
  }
  if (!answer.ok) throw new Problem(read.error);
  if (state.model && read.version !== state.model.version) refreshModel();
  return read;
}

let tokenAsked = null;
function askForToken() {
  sessionStorage.removeItem(TOKEN);
  tokenAsked ??= new Promise((resolve) => {
    const dialog = $("token-dialog");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(TOKEN, $("token").value);
      $("token").value = "";
      tokenAsked = null;
      resolve();
    }, { once: true });
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.showModal();
  });
  return tokenAsked;
}

// Where we are: all of it is in the URL, so that "back" and links work

function place() {
  return new URLSearchParams(location.hash.slice(1));
}

function go(changes) {
  const next = place();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") next.delete(name);
    else next.set(name, value);
  }
  const hash = `#${next}`;
  if (hash === location.hash || (hash === "#" && !location.hash)) show();
  else location.hash = hash;
}

async function show() {
  const here = place();
  const inStudy = here.get("view") === "study";
  $("study").hidden = !inStudy;
  $("try").hidden = inStudy;
  $("skip").hidden = inStudy;
  setCurrent($("to-study"), inStudy);
  setCurrent($("to-try"), !inStudy);
  if (inStudy) return showStudy();
  setMode(here.has("new") ? "new" : "known");
  if ($("where").value !== (here.get("where") ?? "")) {
    $("where").value = here.get("where") ?? "";
    state.filters = {};
    drawBuilder();
  }
  const who = here.get("query");
  if (state.mode === "known" && who !== null && who !== state.shownWho) await showWho(who);
  if (state.mode === "known" && who === null) {
    state.shownWho = state.who = null;
    $("who").value = "";
    $("about").replaceChildren();
    $("history-part").hidden = true;
  }
  return showResults();
}

function setCurrent(link, current) {
  if (current) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

function setMode(mode) {
  state.mode = mode;
  for (const one of ["known", "new"]) {
    $(one).hidden = one !== mode;
    $(`mode-${one}`).setAttribute("aria-pressed", String(one === mode));
  }
  $("history-part").hidden = mode === "new" || !$("history").childElementCount;
}

// For whom

async function showWho(text) {
  state.shownWho = text;
  $("who").value = text;
  $("about").replaceChildren();
  try {
    const path = encodeURIComponent(text);
    const [{ found }, history] = await Promise.all([
      ask(`/v1/queries?like=${path}&limit=1`),
      ask(`/v1/history/${path}`).catch((problem) => (problem.code === "unknown_query" ? null : Promise.reject(problem))),
    ]);
    if (state.shownWho !== text) return;
    state.who = history ? history.id : text;
    for (const [name, value] of Object.entries(history && found.length ? found[0].row : {})) {
      if (name !== state.model.query_id && value !== null) {
        $("about").append(el("dt", {}, words(name)), el("dd", {}, shown(value)));
      }
    }
    if (!history) $("about").append(el("dt", {}, "unknown"), el("dd", {}, "this id does not exist; showing popular items"));
    drawHistory(history);
  } catch (problem) {
    tell(problem);
  }
}

function drawHistory(answer) {
  $("history-part").hidden = !answer || !answer.history.length;
  if (!answer) return $("history").replaceChildren();
  $("history-count").textContent = `${answer.total}, latest first`;
  for (const one of answer.history) state.titles.set(String(one.id), one.title);
  const items = answer.history.map((one) =>
    el("li", {}, el("button", { type: "button", class: "link", onclick: () => go({ similar: one.id }), title: "Show similar items" }, one.title)));
  const first = matchMedia("(min-width: 52rem)").matches ? 8 : 3; // on a phone, the recommendations come below
  $("history").replaceChildren(...items.slice(0, first));
  $("history-more").hidden = items.length <= first;
  $("history-more").onclick = () => {
    $("history").append(...items.slice(first));
    $("history-more").hidden = true;
    items[first].firstChild.focus();
  };
}

// A text field with a list to pick from, following the ARIA practices

function combobox(input, list, find, choose, takesText) {
  let options = [], active = -1, timer = 0, asked = 0;
  const close = () => {
    clearTimeout(timer);
    asked += 1;
    list.hidden = true;
    active = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const mark = (place) => {
    active = place;
    [...list.children].forEach((item, number) => item.setAttribute("aria-selected", String(number === place)));
    if (place < 0) return input.removeAttribute("aria-activedescendant");
    input.setAttribute("aria-activedescendant", list.children[place].id);
    list.children[place].scrollIntoView({ block: "nearest" });
  };
  const take = (option) => {
    close();
    choose(option);
  };
  const open = async (place) => {
    const mine = ++asked;
    try {
      const { found } = await ask(find(input.value));
      if (mine !== asked || document.activeElement !== input) return;
      options = found;
    } catch (problem) {
      return tell(problem);
    }
    list.replaceChildren(...options.map((option, number) => {
      const about = String(option.id) === option.title ? "" : String(option.id);
      const item = el("li", { role: "option", id: `${list.id}-${number}`, "aria-selected": "false" }, option.title, el("small", {}, about));
      item.addEventListener("mousedown", (event) => event.preventDefault());
      item.addEventListener("click", () => take(option));
      return item;
    }));
    list.hidden = !options.length;
    input.setAttribute("aria-expanded", String(options.length > 0));
    if (options.length) mark(place < 0 ? -1 : Math.min(place, options.length - 1));
  };
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => open(takesText ? -1 : 0), 120);
  });
  input.addEventListener("click", () => list.hidden && open(-1));
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const last = options.length - 1;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const down = event.key === "ArrowDown";
      if (list.hidden) open(down ? 0 : Infinity);
      else mark(down ? (active >= last ? 0 : active + 1) : (active <= 0 ? last : active - 1));
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (!list.hidden && active >= 0) take(options[active]);
      else if (takesText && input.value.trim()) take({ id: input.value.trim(), title: input.value.trim() });
    } else if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      close();
    }
  });
}

// New user

function drawNew() {
  $("liked-part").hidden = !state.model.reads_history;
  $("attributes").replaceChildren(...state.model.reads.map((column, number) => {
    const id = `attribute-${number}`;
    const field = column.choices.length
      ? el("select", { id }, el("option", { value: "" }, "not given"), ...column.choices.map((choice) => el("option", {}, choice)))
      : el("input", { id, type: column.kind === "number" ? "number" : "text", step: "any", placeholder: "not given" });
    field.addEventListener("change", () => {
      const text = field.value.trim();
      if (!text) delete state.attributes[column.name];
      else state.attributes[column.name] = column.kind === "number" ? Number(text) : column.kind === "list" ? [text] : text;
      showResults();
    });
    return el("div", {}, el("label", { for: id }, words(column.name)), field);
  }));
}

function drawLiked() {
  $("liked-chosen").replaceChildren(...state.liked.map((one, number) =>
    el("li", {}, el("button", {
      type: "button", "aria-label": `Remove ${one.title}`,
      onclick: () => {
        state.liked.splice(number, 1);
        drawLiked();
        $("liked").focus();
        showResults();
      },
    }, `${one.title} ×`))));
}

// Filters: controls generated from the candidates' columns write the condition, which can also be edited

function quoted(text) {
  const escaped = text.replaceAll("\\", "\\\\");
  return text.includes('"') && !text.includes("'") ? `'${escaped}'` : `"${escaped.replaceAll('"', '\\"')}"`;
}

function named(column) {
  return /^[A-Za-z_]\w*$/.test(column) && !/^(and|or|not|in|contains|is|null|true|false)$/i.test(column) ? column : `\`${column}\``;
}

function conditionOf(column, chosen) {
  const name = named(column.name);
  const parts = [];
  if (chosen.low) parts.push(`${name} >= ${chosen.low}`);
  if (chosen.high) parts.push(`${name} <= ${chosen.high}`);
  if (chosen.text) parts.push(`${name} contains ${quoted(chosen.text)}`);
  const choices = [...(chosen.choices ?? [])];
  if (choices.length && column.kind === "list") {
    const any = choices.map((choice) => `${name} contains ${quoted(choice)}`).join(" or ");
    parts.push(choices.length > 1 ? `(${any})` : any);
  } else if (choices.length > 1) {
    parts.push(`${name} in [${choices.map(quoted).join(", ")}]`);
  } else if (choices.length) {
    parts.push(`${name} = ${column.kind === "truth" ? choices[0] : quoted(choices[0])}`);
  }
  return parts;
}

function filtered() {
  const parts = state.model.columns.flatMap((column) => conditionOf(column, state.filters[column.name] ?? {}));
  $("where").value = parts.join(" and ");
  go({ where: $("where").value });
}

function drawBuilder() {
  const controls = state.model.columns.map((column) => {
    const chosen = () => (state.filters[column.name] ??= {});
    const field = (part, label, type) => {
      const input = el("input", { type, "aria-label": `${words(column.name)}: ${label}`, placeholder: label, step: "any" });
      input.addEventListener("change", () => {
        chosen()[part] = input.value.trim();
        filtered();
      });
      return input;
    };
    const legend = el("legend", {}, words(column.name));
    if (column.kind === "number") {
      const low = field("low", `from ${column.lowest ?? ""}`, "number");
      return el("fieldset", {}, legend, el("div", { class: "range" }, low, "–", field("high", `to ${column.highest ?? ""}`, "number")));
    }
    const choices = column.kind === "truth" ? ["true", "false"] : column.choices;
    if (choices.length > 1) {
      const chips = choices.map((choice) => {
        const chip = el("button", { type: "button", "aria-pressed": "false" }, choice);
        chip.addEventListener("click", () => {
          const set = (chosen().choices ??= new Set());
          if (column.kind === "truth") {
            for (const other of chip.closest("ul").querySelectorAll("button")) if (other !== chip) other.setAttribute("aria-pressed", "false");
            for (const other of [...set]) if (other !== choice) set.delete(other);
          }
          if (!set.delete(choice)) set.add(choice);
          chip.setAttribute("aria-pressed", String(set.has(choice)));
          filtered();
        });
        return el("li", {}, chip);
      });
      return el("fieldset", { class: "wide" }, legend, el("ul", { class: "chips" }, ...chips));
    }
    if (column.kind === "text" || column.kind === "list") return el("fieldset", {}, legend, field("text", "contains", "text"));
    return null;
  });
  $("builder").replaceChildren(...controls.filter(Boolean));
}

// Results

function question() {
  if (state.mode === "known") return state.who === null ? {} : { [state.model.query_id]: state.who };
  const query = { ...state.attributes };
  if (state.liked.length) query.history = state.liked.map((one) => one.id);
  return query;
}

async function showResults() {
  const here = place();
  const similar = here.get("similar");
  const where = here.get("where") || null;
  const mine = ++state.asked;
  tell(null);
  $("results").classList.add("busy");
  $("results").setAttribute("aria-busy", "true");
  $("filter-count").textContent = where ? "(on)" : "";
  try {
    const k = Number($("k").value);
    $("exclude-seen").parentElement.hidden = similar !== null;
    $("rerank-part").hidden = similar !== null || !state.model.rerank;
    let found, heading, basis, query = null;
    if (similar !== null) {
      const condition = where ? `&where=${encodeURIComponent(where)}` : "";
      const answer = await ask(`/v1/similar/${encodeURIComponent(similar)}?k=${k}${condition}`);
      [found, heading, basis] = [answer.recommendations, `Similar to ${answer.title}`, "candidate"];
      state.titles.set(similar, answer.title);
    } else {
      query = question();
      const body = { query, k, exclude_seen: $("exclude-seen").checked, where };
      if (state.model.rerank) body.rerank = $("rerank").value ? { n: Number($("rerank").value) } : null;
      const answer = await ask("/v1/recommend", body);
      [found, basis] = [answer.answers[0].recommendations, answer.answers[0].basis];
      heading = state.mode === "new" ? "For a new user" : state.who === null ? "Most popular" : `For ${state.who}`;
    }
    if (mine !== state.asked) return;
    $("results-heading").textContent = heading;
    $("basis").textContent = BASES[basis];
    $("basis").classList.remove("waiting");
    drawCrumbs(similar);
    drawResults(found, basis, query);
    $("status").textContent = `${heading}: ${found.length} found, ${BASES[basis]}`;
  } catch (problem) {
    if (mine === state.asked) tell(problem);
  } finally {
    if (mine === state.asked) {
      $("results").classList.remove("busy");
      $("results").removeAttribute("aria-busy");
    }
  }
}

function drawCrumbs(similar) {
  $("crumbs").hidden = similar === null;
  if (similar === null) return;
  const back = place();
  back.delete("similar");
  const start = state.mode === "new" ? "For a new user" : state.who === null ? "Most popular" : `For ${state.who}`;
  $("crumbs").replaceChildren(el("a", { href: `#${back}` }, start), el("span", { "aria-current": "page" }, state.titles.get(similar)));
}

function drawResults(found, basis, query) {
  const scores = found.map(orderedBy);
  const high = Math.max(...scores), low = Math.min(0, ...scores);
  $("results").replaceChildren(...found.map((one, number) => {
    state.titles.set(String(one.id), one.title);
    const fill = el("div", { class: "fill" });
    fill.style.width = `${high > low ? (100 * (orderedBy(one) - low)) / (high - low) : 0}%`;
    const row = el("li", { class: "result" },
      el("span", { class: "rank", "aria-hidden": "true" }, String(number + 1)),
      el("span", { class: "title" }, one.title));
    const actions = el("span", { class: "actions" });
    if (query && basis !== "popularity") actions.append(whyButton(row, one, query));
    actions.append(el("button", {
      type: "button", class: "quiet small", "aria-label": `Similar to ${one.title}`,
      onclick: () => { go({ similar: one.id }); $("results").focus(); },
    }, "Similar"));
    const refined = one.rerank_score === null ? "" : `${words(state.model.rerank?.by ?? "refined")} ${one.rerank_score.toFixed(3)} · match `;
    const unit = basis === "popularity" ? `${one.score} events` : (refined || (basis === "candidate" ? "cosine " : "score ")) + one.score.toFixed(3);
    row.append(actions, el("span", { class: "more" }, ...tags(one.candidate)),
      el("span", { class: "score" }, el("span", { class: "track", "aria-hidden": "true" }, fill), el("span", {}, unit)));
    return row;
  }));
  if (!found.length) $("results").append(el("li", { class: "hint" }, "No item matches. Relax the filter, or show items that they already have."));
}

function orderedBy(one) {
  return one.rerank_score ?? one.score;
}

// Whether and how far to refine the order: fixed choices and the bundle's own, which is the default

function drawRerank() {
  const own = state.model.rerank;
  if (!own || $("rerank").childElementCount) return;
  const counts = [...new Set([50, 200, 1000, own.n])].sort((a, b) => a - b);
  $("rerank").append(el("option", { value: "" }, "off"), ...counts.map((count) => el("option", { value: count }, `best ${count.toLocaleString("en")}`)));
  $("rerank").value = String(own.n);
}

function tags(row) {
  const hidden = new Set([state.model.candidate_id, state.model.title]);
  return Object.entries(row).filter(([name, value]) => !hidden.has(name) && value !== null && value !== "" && !/^https?:/.test(value)).flatMap(([name, value]) =>
    Array.isArray(value)
      ? value.slice(0, 8).map((one) => el("span", { class: "tag" }, shown(one)))
      : [el("span", {}, `${words(name)} ${shown(value)}`)]).slice(0, 12);
}

function whyButton(row, one, query) {
  const id = `why-${crypto.randomUUID?.() ?? Math.random()}`;
  const button = el("button", { type: "button", class: "quiet small", "aria-expanded": "false", "aria-controls": id, "aria-label": `Why ${one.title}` }, "Why?");
  const part = el("div", { class: "why", id, hidden: "" });
  button.addEventListener("click", async () => {
    if (!part.isConnected) row.append(part);
    const opens = part.hidden;
    part.hidden = !opens;
    button.setAttribute("aria-expanded", String(opens));
    if (!opens || part.childElementCount) return;
    try {
      part.append(...explanation(await ask("/v1/explain", { query, candidate: one.id, score: one.rerank_score === null ? "retrieval" : "rerank" })));
    } catch (problem) {
      part.append(el("p", { class: "error", role: "alert" }, problem.message));
    }
  });
  return button;
}

function explanation(answer) {
  const groups = [
    ["About the user", answer.query.map((one) => [words(one.name), one.value])],
    ["This item", answer.candidate.map((one) => [words(one.name), one.value])],
    ["Their earlier choices", answer.history.map((one) => [one.title, one.value])],
    ["Everyone", answer.bias ? [["base", answer.bias]] : []],
  ].filter(([, shares]) => shares.length);
  const largest = Math.max(1e-12, ...groups.flatMap(([, shares]) => shares.map(([, value]) => Math.abs(value))));
  const parts = groups.flatMap(([heading, shares]) => {
    const sorted = [...shares].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
    const rest = sorted.splice(MOST_SHARES);
    if (rest.length) sorted.push([`${rest.length} others together`, rest.reduce((sum, [, value]) => sum + value, 0)]);
    return [el("h3", {}, heading), ...sorted.map(([name, value]) => {
      const bar = el("i", { class: value < 0 ? "minus" : "plus" });
      bar.style.width = `${(50 * Math.abs(value)) / largest}%`;
      return el("div", { class: "share" }, el("span", {}, name), el("span", { class: "signed", "aria-hidden": "true" }, bar),
        el("span", {}, `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`));
    })];
  });
  return [...parts, el("p", { class: "hint" }, `Total ${answer.score.toFixed(3)}. ${answer.method}`)];
}

function tell(problem) {
  const atFilter = problem?.field === "where";
  $("problem").hidden = !problem || atFilter;
  $("where-error").hidden = !atFilter;
  $("where").setAttribute("aria-invalid", String(atFilter));
  if (!problem) return;
  $(atFilter ? "where-error" : "problem").textContent = problem.message;
  if (!atFilter) $("problem").append(" ", el("button", { type: "button", class: "quiet small", onclick: () => location.reload() }, "Try again"));
  if (atFilter) $("filters").open = true;
  else $("results").replaceChildren();
}

// How good it is

async function showStudy() {
  drawScores(state.model);
  try {
    state.study = await ask("/v1/study");
    drawCurves(state.study);
  } catch (problem) {
    $("curves-part").hidden = false;
    $("curves").replaceChildren(el("p", { class: "error", role: "alert" }, problem.message));
  }
}

function drawScores(model) {
  $("remarks").replaceChildren(...model.remarks.map((one) => el("li", {}, one)));
  if (!model.metrics.length) return $("scores").replaceChildren(el("p", { class: "hint" }, "No scores were saved with this model."));
  const columns = ["unseen", "all"].flatMap((kind) => ["top_10", "top_100", "mrr", "ndcg_10"].filter((name) => name in model.metrics[0][kind]).map((name) => [kind, name]));
  const best = columns.map(([kind, name]) => Math.max(...model.metrics.map((one) => (one.name === "oracle" ? 0 : one[kind][name] ?? 0))));
  const head = el("tr", {}, el("th", { scope: "col" }, "method"), ...columns.map(([kind, name]) => el("th", { scope: "col" }, `${label(name)} ${kind}`)));
  const rows = model.metrics.map((one) => el("tr", { class: one.name === "model" ? "own" : "" }, el("th", { scope: "row" }, label(one.name)),
    ...columns.map(([kind, name], number) => {
      const value = one[kind][name];
      return el("td", {}, value === undefined ? "–" : value.toFixed(3) + (value === best[number] ? " ●" : ""));
    })));
  $("scores").replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)), el("p", { class: "hint" },
    `● the best of a column${model.metrics.some((one) => one.name === "oracle") ? "; the oracle is the best possible score, known because the data are simulated" : ""}`));
}

function drawCurves(answer) {
  $("curves-part").hidden = !answer.curves.some((curve) => curve.points.length > 1);
  if ($("curves-part").hidden) return;
  $("verdicts").replaceChildren(...answer.remarks.map((one) => el("li", {}, one)));
  const baselines = Object.entries(answer.baselines);
  const points = answer.curves.flatMap((curve) => curve.points);
  const width = Math.min(736, $("curves").clientWidth);
  const [height, left, right, top, bottom] = [320, 44, baselines.length ? 84 : 12, 12, 36];
  const last = Math.max(...points.map((one) => one[0]));
  const values = [...points.map((one) => one[1]), ...baselines.map((one) => one[1])];
  const low = Math.min(0, ...values), high = Math.max(...values) * 1.05;
  const x = (epoch) => left + ((width - left - right) * epoch) / last;
  const y = (value) => height - bottom - ((height - top - bottom) * (value - low)) / (high - low || 1);
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${label(answer.metric)} by epoch: ${answer.curves.map((curve) => `${curve.name} ends at ${curve.points.at(-1)?.[1].toFixed(3)}`).join(", ")}` });
  const apart = roundStep((high - low) / 4);
  for (let value = Math.ceil(low / apart) * apart; value <= high; value += apart) {
    drawn.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: y(value), y2: y(value) }), svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(Math.max(1, Math.ceil(-Math.log10(apart))))));
  }
  const step = Math.ceil(last / 5);
  for (let epoch = 0; epoch <= last; epoch += step) {
    drawn.append(svg("text", { class: "epoch", x: x(epoch), y: height - bottom + 18, "text-anchor": "middle" }, String(epoch)));
  }
  drawn.append(svg("text", { x: (left + width - right) / 2, y: height - 2, "text-anchor": "middle" }, "epoch"));
  let above = Infinity;
  for (const [name, value] of baselines.sort((a, b) => a[1] - b[1])) {
    above = Math.min(above - 13, y(value) + 4);
    drawn.append(svg("line", { class: "base", x1: left, x2: width - right, y1: y(value), y2: y(value) }), svg("text", { x: width - right + 6, y: above }, label(name)));
  }
  answer.curves.forEach((curve, number) => drawn.append(svg("polyline", { class: `curve c${number % 6}`, points: curve.points.map(([epoch, value]) => `${x(epoch)},${y(value)}`).join(" ") })));
  const legend = answer.curves.map((curve, number) => el("span", { class: `c${number % 6}` }, el("i"), `${curve.name} ${curve.points.at(-1)?.[1].toFixed(3)}`));
  $("curves").replaceChildren(el("p", { class: "hint" }, `${label(answer.metric)}, validated while training`), drawn, el("div", { class: "legend" }, ...legend));
}

// Words and values

function words(name) {
  return String(name).replaceAll("_", " ");
}

// Methods and metrics, as the reports name them

function label(name) {
  return LABELS[name] ?? words(name).replace(/^top (\d+)$/, "top-$1").replace(/^ndcg (\d+)$/, "NDCG@$1");
}

// The smallest of 1, 2, 5, 10, … (or 0.1, 0.2, …) that is at least this

function roundStep(least) {
  const unit = 10 ** Math.floor(Math.log10(least || 1));
  return [1, 2, 5, 10].map((times) => times * unit).find((step) => step >= least) ?? unit;
}

function shown(value) {
  if (Array.isArray(value)) return value.map(shown).join(", ");
  if (typeof value === "number" && !Number.isInteger(value)) return String(Number(value.toPrecision(5)));
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

// Start

async function refreshModel() {
  const model = (state.model = await ask("/v1/model"));
  $("data").replaceChildren(el("span", {}, model.data), el("i", {}, " · "), el("span", {}, `${model.candidates.toLocaleString("en")} items · ${model.queries.toLocaleString("en")} users`));
  $("version").textContent = `model ${model.version}`;
  const recall = model.recall === null ? "" : `, recall ${model.recall.toFixed(3)}`;
  $("facts").textContent = `· ${model.index} index${recall} · revision ${model.revision} · loaded ${new Date(model.loaded_at).toLocaleString("en")} · twotower ${model.library} `;
  $("refused").hidden = !model.last_refused;
  if (model.last_refused) $("refused").textContent = `A new model was rejected: ${model.last_refused.reason}`;
  $("who-label").textContent = words(model.query_id);
  drawRerank();
}

async function start() {
  $("to-try").addEventListener("click", (event) => { event.preventDefault(); go({ view: null }); });
  $("mode-known").addEventListener("click", () => go({ new: null, similar: null }));
  $("mode-new").addEventListener("click", () => go({ new: "1", similar: null }));
  $("skip").addEventListener("click", (event) => { event.preventDefault(); $("results").focus(); });
  $("to-study").addEventListener("click", (event) => { event.preventDefault(); go({ view: "study" }); });
  $("exclude-seen").addEventListener("change", showResults);
  $("k").addEventListener("change", showResults);
  $("rerank").addEventListener("change", showResults);
  $("where-form").addEventListener("submit", (event) => {
    event.preventDefault();
    state.filters = {};
    drawBuilder();
    go({ where: $("where").value.trim() });
  });
  $("where-clear").addEventListener("click", () => {
    state.filters = {};
    $("where").value = "";
    drawBuilder();
    go({ where: null });
  });
  $("surprise").addEventListener("click", async () => {
    const { found } = await ask(`/v1/queries?like=${Math.floor(Math.random() * 10)}&limit=200`).catch((problem) => (tell(problem), { found: [] }));
    if (found.length) go({ query: found[Math.floor(Math.random() * found.length)].id, similar: null });
  });
  combobox($("who"), $("who-list"), (text) => `/v1/queries?like=${encodeURIComponent(text.trim())}&limit=20`, (one) => go({ query: one.id, similar: null }), true);
  combobox($("liked"), $("liked-list"), (text) => `/v1/candidates?like=${encodeURIComponent(text.trim())}&limit=20`, (one) => {
    $("liked").value = "";
    if (!state.liked.some((other) => other.id === one.id)) state.liked.push(one);
    drawLiked();
    showResults();
  }, false);
  await refreshModel();
  const examples = state.model.columns.filter((column) => column.kind !== "other").slice(0, 2);
  $("where-help").textContent = `Columns: ${state.model.columns.map((column) => column.name).join(", ")}. Words: and, or, not, =, !=, <, <=, >, >=, in [..], contains, is null, and ( ).`
    + (examples.length ? ` Example: ${examples.map((column) => column.kind === "number" ? `${named(column.name)} >= ${column.lowest ?? 0}` : `${named(column.name)} contains ${quoted(column.choices[0] ?? "…")}`).join(" and ")}` : "");
  drawBuilder();
  drawNew();
  addEventListener("hashchange", show);
  addEventListener("resize", () => state.study && !$("study").hidden && drawCurves(state.study));
  await show();
  $("foot").classList.remove("waiting");
}

start().catch(tell);
