"use strict";
// The page asks this exchange alone. Texts are put in as text; pictures are parsed as SVG, never as HTML.
const find = (id) => document.getElementById(id);
const REFRESH_MS = 5000;
let minutes = 15;
let token = sessionStorage.getItem("tcgx-operate") || "";

async function ask(path, method = "GET") {
  const answer = await fetch(path, { method, headers: { authorization: `Bearer ${token}` }, cache: "no-store" });
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.detail || answer.statusText), { status: answer.status });
  return body;
}

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function picture(svg) {
  return document.importNode(new DOMParser().parseFromString(svg, "image/svg+xml").documentElement, true);
}

// -- cards: what the exchange says about them now, and what this page has seen in the last hour

const HOUR_MS = 3600_000;
const WIDTH = 240;
const HEIGHT = 28;
const seen = new Map();

function remember(card, appended) {
  const now = Date.now();
  const points = seen.get(card) ?? [];
  const before = points.at(-1);
  const rate = before && now > before.at ? Math.max(0, (1000 * (appended - before.appended)) / (now - before.at)) : undefined;
  points.push({ at: now, appended, rate });
  while (points[0].at < now - HOUR_MS) points.shift();
  seen.set(card, points);
  return points;
}

function line(points) {
  const known = points.filter((each) => each.rate !== undefined);
  const highest = Math.max(1, ...known.map((each) => each.rate));
  const now = Date.now();
  const place = ({ at, rate }) => `${(WIDTH * (1 - (now - at) / HOUR_MS)).toFixed(1)},${(HEIGHT - 1 - (HEIGHT - 2) * (rate / highest)).toFixed(1)}`;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", known.length ? `at most ${Math.round(highest)} a second` : "nothing yet");
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  drawn.setAttribute("points", known.map(place).join(" "));
  svg.append(drawn);
  return svg;
}

function action(state) {
  const button = element("button", state.halted ? "Resume" : "Halt");
  button.addEventListener("click", () => (state.halted ? change(state.card, "resume") : askWhy(state.card)));
  const cell = element("td", "");
  cell.append(button);
  return cell;
}

function askWhy(card) {
  find("halting").textContent = card;
  find("halt").hidden = false;
  find("reason").value = "";
  find("reason").focus();
}

async function change(card, what, query = "") {
  find("halt").hidden = true;
  find("refused").textContent = "";
  try {
    await ask(`/admin/cards/${encodeURIComponent(card)}/${what}${query}`, "POST");
  } catch (error) {
    find("refused").textContent = `${card}: ${error.message}`;
  }
  await refresh();
}

async function showCards() {
  const { cards } = await ask("/cards");
  const states = await Promise.all(cards.map(({ card }) => ask(`/admin/cards/${encodeURIComponent(card)}`)));
  const focused = document.activeElement?.closest("tr")?.dataset.card;
  find("cards").replaceChildren(...states.map((state) => {
    const points = remember(state.card, state.appended);
    const rate = points.at(-1).rate;
    const row = element("tr", "", state.halted ? "warning" : "");
    row.dataset.card = state.card;
    const name = element("th", state.card);
    name.scope = "row";
    const said = state.halted ? `halted since ${state.halted_since.slice(11, 19)}: ${state.reason}` : "trading";
    const plot = element("td", "");
    plot.append(line(points));
    row.append(name, element("td", said), ...[state.appended, state.appended - state.matched, state.matched - state.archived]
      .map((number) => element("td", number.toLocaleString("en"), "number")), element("td", rate === undefined ? "" : rate.toFixed(rate < 10 ? 1 : 0), "number"), plot, action(state));
    return row;
  }));
  if (focused) find("cards").querySelector(`tr[data-card="${CSS.escape(focused)}"] button`)?.focus();
}

async function showHealth() {
  const answer = await fetch("/health", { cache: "no-store" });
  const { status, reasons } = await answer.json();
  find("health").textContent = [`The exchange is ${status}.`, ...reasons].join(" ");
  find("health").className = status === "healthy" ? "well" : "firing";
}

async function showPanels() {
  const { rows, alerts } = await ask(`/operate/panels?minutes=${minutes}`);
  if (!rows.length) return find("panels").replaceChildren(element("p", "Panels need Prometheus: tcgx up --observe, or TCGX_PROMETHEUS_URL.", "quiet"));
  find("panels").replaceChildren(...rows.flatMap((row) => {
    const grid = element("div", "", "row");
    grid.append(...row.panels.map(picture));
    return [element("h2", row.title), grid];
  }));
  const lines = alerts.map((each) =>
    element("p", `${each.name} (${each.state}, ${each.severity}) since ${each.since.slice(11, 19)}: ${each.summary}`, each.state));
  find("alerts").replaceChildren(...(lines.length ? lines : [element("p", "No alert.", "well")]));
}

async function showLog() {
  const query = new URLSearchParams({ text: find("text").value.trim(), level: find("level").value });
  const { lines } = await ask(`/operate/logs?${query}`);
  find("lines").replaceChildren(...lines.map((line) => {
    const { timestamp, service, level, event, ...fields } = line;
    const row = element("tr", "", level);
    row.append(...[timestamp.slice(0, 23).replace("T", " "), service, level, event].map((text) => element("td", text)));
    const cell = element("td", "");
    for (const [name, value] of Object.entries(fields)) {
      cell.append(`${name}=`);
      if (name === "request_id" || name === "order") {
        const link = element("button", String(value));
        link.addEventListener("click", () => { find("text").value = value; find("level").value = "debug"; refresh(); });
        cell.append(link);
      } else {
        cell.append(typeof value === "object" ? JSON.stringify(value) : String(value));
      }
      cell.append("  ");
    }
    row.append(cell);
    return row;
  }));
}

async function refresh() {
  const outcomes = await Promise.allSettled([showCards(), showHealth(), showPanels(), showLog()]);
  const failed = outcomes.find((each) => each.status === "rejected");
  const refused = failed && [401, 403].includes(failed.reason.status);
  document.querySelector("main").hidden = Boolean(refused);
  find("login").hidden = !refused;
  find("state").textContent = failed ? failed.reason.message : `as of ${new Date().toISOString().slice(11, 19)} UTC`;
}

async function forever() {
  for (;;) {
    if (token && !document.hidden) await refresh();
    await new Promise((done) => setTimeout(done, REFRESH_MS));
  }
}

for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => {
    minutes = Number(button.dataset.minutes);
    for (const each of document.querySelectorAll("nav button")) each.setAttribute("aria-pressed", String(each === button));
    if (token) refresh();
  });
}
find("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("token").value.trim();
  sessionStorage.setItem("tcgx-operate", token);
  if (token) refresh();
});
find("halt").addEventListener("submit", (event) => {
  event.preventDefault();
  change(find("halting").textContent, "halt", `?reason=${encodeURIComponent(find("reason").value)}`);
});
find("keep").addEventListener("click", () => { find("halt").hidden = true; });
find("search").addEventListener("submit", (event) => { event.preventDefault(); refresh(); });
forever();
