// The page: one stream, one state, and one flush a frame, which writes what has changed.
import { call, currentToken, hasToken, logout, onLogout } from "./api.js";
import { Chart, sparkline } from "./chart.js";
import { Ladder } from "./ladder.js";
import { Orders } from "./orders.js";
import { Stream } from "./stream.js";
import { Ticket } from "./ticket.js";
import { by, clock, make, number, row, say } from "./util.js";

const TAPE = 50;
const BEHIND_MS = 2000;
const RETRY_MS = 2000;
const CHIPS = ["#ffd75e", "#7ed6a5", "#ff9f6b", "#7fb8ff", "#d7a5ff", "#f5a3c1"];
const state = { card: "", cards: [], interval: "1m", live: "connecting", tape: [], tickers: new Map(), sparks: new Map() };
// A page that its reader has paused shows prices of before, so nobody can act on them.
const isFresh = () => state.live === "live";
const isLive = () => isFresh() && !state.isPaused;

const ladder = new Ladder((price, side) => {
  if (!isLive()) return;
  ticket.pick(price, side);
  if (matchMedia("(max-width: 767px)").matches) view("trade");
});
const chart = new Chart();
const orders = new Orders({ isLive, changed: () => ((ladder.own = orders.own(state.card)), (ladder.dirty = true)) });
const ticket = new Ticket({
  card: () => state.card,
  best: () => ladder.best(),
  usual: () => median(state.tape.map((trade) => trade.quantity)),
  isLive,
  placed: (order) => orders.put(order),
  loggedIn: () => {
    stream.authenticate();
    void orders.read().catch((error) => say(error.message));
  },
});
onLogout((reason) => {
  stream.unsubscribe(["orders"]);
  orders.clear();
  ticket.show();
  say(reason);
});

const stream = new Stream({ token: currentToken, message: take, state: (name) => live(name) });

function live(name) {
  if (state.live === name) return;
  state.live = name;
  document.documentElement.dataset.live = name;
  showState();
  if (name !== "live") ladder.sequence = undefined;
}

function showState() {
  const words = { live: "live", stale: "stale", reconnecting: "reconnecting", connecting: "connecting", paused: "in another tab" };
  by("state-text").textContent = state.isPaused ? `${words[state.live]}, not shown` : words[state.live];
  ticket.words();
  orders.dirty = true;
}

function median(values) {
  return values.length ? [...values].sort((one, other) => one - other)[values.length >> 1] : undefined;
}

function take(message) {
  if (message.channel === "book" && message.card === state.card) {
    if (message.type === "snapshot") {
      ladder.snapshot(message);
      live("live");
    } else if (ladder.sequence !== undefined && !ladder.update(message)) stream.again(0);
    chart.dirty ||= chart.mode === "depth";
  } else if (message.channel === "trades" && message.card === state.card) addTrades(message.trades);
  else if (message.channel === "ticker") state.tickers.set(message.card, message);
  else if (message.channel === "candles" && message.card === state.card && message.interval === state.interval) chart.update(message.candles ?? []);
  else if (message.channel === "orders") orders.take(message);
  else if (message.type === "heartbeat") compare(message);
  else if (message.type === "hello") void read();
  else if (message.type === "gap" || message.type === "reset") void read();
  else if (message.type === "error") say(message.detail);
  state.dirty = true;
}

// A book that stays behind the heartbeats misses something, although the connection is well.
function compare({ positions }) {
  const position = positions?.[state.card];
  if (ladder.sequence === undefined || position === undefined || position <= ladder.sequence) return;
  if (state.late) return; // an earlier position is waited for
  const { card } = state;
  state.late = setTimeout(() => {
    state.late = 0;
    if (card !== state.card || !isFresh() || ladder.sequence >= position) return;
    live("stale");
    stream.again(0);
  }, BEHIND_MS);
}

function addTrades(trades) {
  const known = new Set(state.tape.map((trade) => trade.trade_id));
  state.tape = [...trades.filter((trade) => !known.has(trade.trade_id)), ...state.tape].sort(newer).slice(0, TAPE);
  if (state.tape.length) ladder.last = Math.round(Number(state.tape[0].price) * 100);
  chart.trade(state.tape[0]?.price);
  ladder.dirty = true;
  state.tapeDirty = true;
}

const newer = (one, other) => Number(other.trade_id.split("-t")[1]) - Number(one.trade_id.split("-t")[1]);

// What the stream does not repeat: trades and candles of before, own orders, and the lines beside the cards.
async function read() {
  const { card, interval } = state;
  if (!card) return;
  try {
    const [{ trades }, { candles }] = await Promise.all([
      call("GET", `/cards/${card}/trades`),
      call("GET", `/cards/${card}/candles?interval=${interval}&limit=90`),
      hasToken() ? orders.read() : undefined,
    ]);
    if (card !== state.card || interval !== state.interval) return;
    addTrades(trades);
    chart.replace(candles);
    for (const each of state.cards) {
      const found = await call("GET", `/cards/${each.card}/candles?interval=5m&limit=40`);
      state.sparks.set(each.card, found.candles.map((candle) => Number(candle.close)));
      state.dirty = true;
    }
  } catch (error) {
    say(error.message);
  }
}

function channelsOf(card) {
  return [`book:${card}`, `trades:${card}`, `candles:${card}:${state.interval}`];
}

function choose(card) {
  if (state.card) stream.unsubscribe(channelsOf(state.card));
  Object.assign(state, { card, tape: [], tapeDirty: true, dirty: true });
  live("connecting");
  ladder.clear();
  chart.replace([]);
  chart.trade(undefined);
  const { price_min, price_max } = state.cards.find((each) => each.card === card);
  ladder.bounds(Math.round(price_min * 100), Math.round(price_max * 100));
  ladder.own = orders.own(card);
  by("title").textContent = card[0].toUpperCase() + card.slice(1);
  document.title = `${card} · tcgx`;
  ticket.changed();
  stream.subscribe(channelsOf(card));
  void read();
}

function drawCards() {
  const chosen = new Map([...by("cards").children].map((item) => [item.dataset.card, item]));
  state.cards.forEach(({ card }, place) => {
    const ticker = state.tickers.get(card);
    let item = chosen.get(card);
    if (!item) {
      item = make("li");
      item.dataset.card = card;
      const button = make("button", "", { type: "button" });
      const glyph = make("span", card[0].toUpperCase(), { className: "glyph", ariaHidden: "true" });
      glyph.style.setProperty("--chip", CHIPS[place % CHIPS.length]);
      button.append(glyph, make("span", card, { className: "name" }), make("span", "–", { className: "price" }));
      button.addEventListener("click", () => choose(card));
      item.append(button);
      by("cards").append(item);
    }
    const button = item.firstChild;
    button.setAttribute("aria-current", String(card === state.card));
    const change = ticker?.open && ticker?.last ? (100 * (ticker.last - ticker.open)) / ticker.open : null;
    const last = card === state.card ? (state.tape[0]?.price ?? ticker?.last) : ticker?.last;
    const text = last ? `${last}${change === null ? "" : ` ${change >= 0 ? "▲" : "▼"} ${Math.abs(change).toFixed(1)} %`}` : "–";
    if (button.children[2].textContent !== text) button.children[2].textContent = text;
    const values = state.sparks.get(card);
    if (values?.length > 1 && button.dataset.spark !== values.join()) {
      button.dataset.spark = values.join();
      button.querySelector("svg")?.remove();
      button.append(sparkline(values));
    }
  });
}

function drawStats() {
  const ticker = state.tickers.get(state.card);
  const put = (id, value) => (by(id).textContent = value ?? "–");
  put("stat-last", state.tape[0]?.price ?? ticker?.last);
  put("stat-high", ticker?.high);
  put("stat-low", ticker?.low);
  put("stat-volume", ticker?.volume?.toLocaleString());
}

function drawTape() {
  by("tape").tBodies[0].replaceChildren(
    ...state.tape.map((trade) => {
      const price = number(`${trade.taker_side === "buy" ? "▲" : "▼"} ${trade.price}`);
      price.classList.add(trade.taker_side === "buy" ? "buy-text" : "sell-text");
      return row([price, number(String(trade.quantity)), clock(trade.executed_at)]);
    }),
  );
}

function flush() {
  requestAnimationFrame(flush);
  orders.draw();
  if (state.isPaused) return;
  ladder.draw();
  chart.draw(ladder.sides);
  if (state.tapeDirty) drawTape();
  if (state.dirty || state.tapeDirty) {
    drawCards();
    drawStats();
  }
  state.dirty = state.tapeDirty = false;
}

function view(name) {
  document.querySelector("main").dataset.view = name;
  for (const button of document.querySelectorAll(".views button")) button.setAttribute("aria-pressed", String(button.dataset.to === name));
}

for (const button of document.querySelectorAll(".views button")) button.addEventListener("click", () => view(button.dataset.to));
by("chart-mode").addEventListener("change", (event) => {
  chart.mode = event.target.value;
  chart.dirty = true;
});
by("interval").addEventListener("change", (event) => {
  stream.unsubscribe([`candles:${state.card}:${state.interval}`]);
  state.interval = event.target.value;
  stream.subscribe([`candles:${state.card}:${state.interval}`]);
  chart.replace([]);
  void read();
});
view("market");

by("pause").addEventListener("click", () => {
  state.isPaused = !state.isPaused;
  by("pause").setAttribute("aria-pressed", String(state.isPaused));
  by("pause").textContent = state.isPaused ? "Show updates" : "Pause updates";
  showState();
});
by("leave").addEventListener("click", () => logout("You are logged out."));

while (!state.cards.length) {
  try {
    state.cards = (await call("GET", "/cards")).cards;
  } catch (error) {
    say(`The exchange does not answer: ${error.message}`);
    await new Promise((again) => setTimeout(again, RETRY_MS));
  }
}
stream.subscribe(["ticker"]);
choose(state.cards[0].card);
flush();
