// The ladder: rows with fixed prices. Quantities come and go in place, so nothing moves under the pointer.
import { by, make, money } from "./util.js";

const ROWS = 41;

export class Ladder {
  constructor(pick) {
    this.pick = pick;
    this.sides = { bids: new Map(), asks: new Map() };
    this.own = new Map();
    this.shown = [];
    this.dirty = true;
    this.top = 0;
    this.rows = Array.from({ length: ROWS }, (_, place) => this.makeRow(place));
    by("ladder").tBodies[0].append(...this.rows.map((each) => each.line));
    this.focus(Math.floor(ROWS / 2), false);
    by("ladder").addEventListener("keydown", (event) => this.key(event));
    by("centre").addEventListener("click", () => this.centre());
    addEventListener("keydown", (event) => {
      if (event.key === "c" && !event.target.closest("input, select, textarea") && !event.ctrlKey) this.centre();
    });
  }

  makeRow(place) {
    const line = document.createElement("tr");
    const cell = (side) => {
      const found = make("td", "", { className: side });
      const [bar, quantity, own] = [make("span", "", { className: "bar" }), make("b"), make("span", "", { className: "own" })];
      found.append(bar, quantity, own);
      found.addEventListener("click", () => this.picked(place, side === "bid" ? "sell" : "buy"));
      return { found, bar, quantity, own };
    };
    const [bid, ask] = [cell("bid"), cell("ask")];
    const price = make("td");
    price.addEventListener("click", () => this.picked(place));
    line.append(bid.found, price, ask.found);
    line.tabIndex = -1;
    return { line, bid, ask, price };
  }

  bounds(low, high) {
    [this.low, this.high] = [low, high];
    this.centre();
  }

  snapshot(message) {
    this.sides = { bids: toMap(message.bids), asks: toMap(message.asks) };
    this.sequence = message.sequence;
    this.dirty = true;
    if (!this.isInWindow()) this.centre();
  }

  update(message) {
    if (message.sequence <= this.sequence) return true;
    if (message.previous_sequence !== this.sequence) return false;
    for (const [name, side] of Object.entries(this.sides)) {
      for (const [price, quantity] of message[name]) {
        if (quantity) side.set(toCents(price), quantity);
        else side.delete(toCents(price));
      }
    }
    this.sequence = message.sequence;
    this.dirty = true;
    return true;
  }

  clear() {
    this.sides = { bids: new Map(), asks: new Map() };
    this.sequence = undefined;
    this.last = undefined;
    this.dirty = true;
  }

  best() {
    const bids = [...this.sides.bids.keys()];
    const asks = [...this.sides.asks.keys()];
    return { bid: bids.length ? Math.max(...bids) : undefined, ask: asks.length ? Math.min(...asks) : undefined };
  }

  middle() {
    const { bid, ask } = this.best();
    if (bid !== undefined && ask !== undefined) return Math.round((bid + ask) / 2);
    return bid ?? ask ?? this.last ?? Math.round(((this.low ?? 100) + (this.high ?? 1000)) / 2);
  }

  isInWindow() {
    const middle = this.middle();
    return middle <= this.top && middle > this.top - ROWS;
  }

  centre() {
    const half = Math.floor(ROWS / 2);
    this.top = Math.min(this.high ?? 1000, Math.max((this.low ?? 100) + ROWS - 1, this.middle() + half));
    this.dirty = true;
    const scroll = by("ladder-scroll");
    scroll.scrollTop = (scroll.scrollHeight - scroll.clientHeight) / 2;
  }

  draw() {
    if (!this.dirty) return;
    const table = by("ladder");
    const isUsed = table.matches(":hover") || table.contains(document.activeElement);
    if (!this.isInWindow() && !isUsed) this.centre();
    this.dirty = false;
    const { bid: best, ask: offered } = this.best();
    const prices = Array.from({ length: ROWS }, (_, place) => this.top - place);
    const largest = Math.max(1, ...prices.map((price) => Math.max(this.sides.bids.get(price) ?? 0, this.sides.asks.get(price) ?? 0)));
    prices.forEach((price, place) => {
      const { line, bid, ask, price: cell } = this.rows[place];
      set(cell, money(price));
      this.drawSide(bid, this.sides.bids.get(price), this.own.get(`buy ${price}`), largest);
      this.drawSide(ask, this.sides.asks.get(price), this.own.get(`sell ${price}`), largest);
      const isInside = best !== undefined && offered !== undefined && price > best && price < offered;
      line.className = `${isInside ? "inside" : ""} ${price === this.last ? "last" : ""}`.trim();
    });
    table.dataset.sequence = this.sequence ?? "";
    set(by("spread"), best !== undefined && offered !== undefined ? money(offered - best) : "–");
    set(by("stat-bid"), best === undefined ? "–" : money(best));
    set(by("stat-ask"), offered === undefined ? "–" : money(offered));
  }

  drawSide(cell, quantity, own, largest) {
    set(cell.quantity, quantity ? String(quantity) : "");
    set(cell.own, own ? String(own) : "");
    cell.bar.style.transform = `scaleX(${quantity ? quantity / largest : 0})`;
  }

  focus(place, moves = true) {
    this.rows.forEach(({ line }, each) => (line.tabIndex = each === place ? 0 : -1));
    this.focused = place;
    if (moves) this.rows[place].line.focus();
  }

  key(event) {
    const step = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10 }[event.key];
    if (step) {
      event.preventDefault();
      this.focus(Math.min(ROWS - 1, Math.max(0, this.focused + step)));
    } else if (event.key === "Enter") {
      event.preventDefault();
      this.picked(this.focused);
    }
  }

  picked(place, side) {
    this.focus(place, false);
    this.pick(this.top - place, side);
  }
}

const toCents = (price) => Math.round(Number(price) * 100);
const toMap = (levels) => new Map(levels.map(([price, quantity]) => [toCents(price), quantity]));

function set(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
}
