// Candles or depth on a canvas, and a sentence and a table that say the same.
import { by, clock, money, number, row } from "./util.js";

const SHOWN = 90;
const GAP = 64;

export class Chart {
  constructor() {
    this.canvas = by("chart");
    this.candles = [];
    this.mode = "candles";
    this.sides = { bids: new Map(), asks: new Map() };
    this.dirty = true;
    new ResizeObserver(() => (this.dirty = true)).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (this.dirty = true));
  }

  // The price of the newest trade, which is ahead of the candles by up to a second.
  trade(price) {
    this.last = price === undefined ? undefined : Number(price);
    this.dirty = true;
  }

  replace(candles) {
    this.candles = candles.slice(-SHOWN);
    this.dirty = true;
  }

  update(candles) {
    for (const candle of candles) {
      const place = this.candles.findIndex((each) => each.start === candle.start);
      if (place >= 0) this.candles[place] = candle;
      else if (!this.candles.length || candle.start > this.candles.at(-1).start) this.candles.push(candle);
    }
    this.candles = this.candles.slice(-SHOWN);
    this.dirty = true;
  }

  draw(sides) {
    if (!this.dirty) return;
    this.sides = sides;
    this.dirty = false;
    const ratio = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      [this.canvas.width, this.canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "11px system-ui, sans-serif";
    const color = colors();
    if (this.mode === "depth") this.drawDepth(pen, width, height, color);
    else this.drawCandles(pen, width, height, color);
    this.tell();
  }

  drawCandles(pen, width, height, color) {
    const shown = this.candles.map((each) => ({ ...each, o: +each.open, h: +each.high, l: +each.low, c: +each.close }));
    if (!shown.length) return;
    const [low, high] = [Math.min(...shown.map((each) => each.l)), Math.max(...shown.map((each) => each.h))];
    const margin = Math.max((high - low) * 0.08, 0.02);
    const [bottom, volumes] = [height - 46, 34];
    const y = (price) => 12 + ((high + margin - price) / (high - low + 2 * margin)) * (bottom - 24);
    const step = Math.min(14, (width - GAP - 12) / Math.max(shown.length, 24));
    const x = (place) => width - GAP - (shown.length - place - 0.5) * step;
    const tag = this.last ?? shown.at(-1).c;
    grid(pen, width, low, high, tag, y, color);
    const largest = Math.max(1, ...shown.map((each) => each.volume));
    shown.forEach((each, place) => {
      const isUp = each.c >= each.o;
      pen.strokeStyle = pen.fillStyle = isUp ? color.buy : color.sell;
      pen.lineWidth = 1;
      line(pen, x(place), y(each.h), x(place), y(each.l));
      const [top, size] = [Math.min(y(each.o), y(each.c)), Math.max(1, Math.abs(y(each.o) - y(each.c)))];
      const body = Math.max(2, step * 0.62);
      if (isUp) {
        pen.clearRect(x(place) - body / 2, top, body, size);
        pen.strokeRect(x(place) - body / 2 + 0.5, top + 0.5, body - 1, Math.max(0.5, size - 1));
      } else pen.fillRect(x(place) - body / 2, top, body, size);
      pen.globalAlpha = 0.35;
      const tall = (each.volume / largest) * volumes;
      pen.fillRect(x(place) - body / 2, bottom + volumes - tall, body, tall);
      pen.globalAlpha = 1;
    });
    const last = shown.at(-1);
    const place = Math.min(bottom, Math.max(10, y(tag)));
    pen.fillStyle = color.accent;
    pen.fillRect(width - GAP + 4, place - 8, GAP - 8, 16);
    pen.fillStyle = color.on;
    pen.fillText(tag.toFixed(2), width - GAP + 12, place + 4);
    pen.fillStyle = color.quiet;
    if (x(shown.length - 1) - x(0) > 140) pen.fillText(clock(shown[0].start), Math.max(2, x(0) - 20), height - 2);
    pen.textAlign = "right";
    pen.fillText(clock(last.start), width - GAP, height - 2);
    pen.textAlign = "left";
  }

  drawDepth(pen, width, height, color) {
    const sum = (levels) => {
      let total = 0;
      return levels.map(([price, quantity]) => [price, (total += quantity)]);
    };
    const bids = sum([...this.sides.bids].sort((one, other) => other[0] - one[0]).slice(0, 60));
    const asks = sum([...this.sides.asks].sort((one, other) => one[0] - other[0]).slice(0, 60));
    if (!bids.length && !asks.length) return;
    const prices = [...bids, ...asks].map(([price]) => price);
    const [low, high] = [Math.min(...prices), Math.max(...prices)];
    const largest = Math.max(...[...bids, ...asks].map(([, total]) => total));
    const x = (price) => 8 + ((price - low) / Math.max(1, high - low)) * (width - 16);
    const y = (total) => height - 20 - (total / largest) * (height - 40);
    for (const [side, stroke, fill] of [
      [bids, color.buy, color.buySoft],
      [asks, color.sell, color.sellSoft],
    ]) {
      if (!side.length) continue;
      pen.beginPath();
      pen.moveTo(x(side[0][0]), height - 20);
      side.forEach(([price, total], place) => {
        pen.lineTo(x(price), place ? y(side[place - 1][1]) : height - 20);
        pen.lineTo(x(price), y(total));
      });
      pen.strokeStyle = stroke;
      pen.stroke();
      pen.lineTo(x(side.at(-1)[0]), height - 20);
      pen.fillStyle = fill;
      pen.fill();
    }
    pen.fillStyle = color.quiet;
    pen.fillText(money(low), 8, height - 4);
    pen.textAlign = "right";
    pen.fillText(money(high), width - 8, height - 4);
    pen.fillText(`${largest} in all`, width - 8, 12);
    pen.textAlign = "left";
  }

  tell() {
    const last = this.candles.at(-1);
    const highest = Math.max(...this.candles.map((each) => +each.high));
    const lowest = Math.min(...this.candles.map((each) => +each.low));
    const text = last
      ? `${this.candles.length} candles: last ${last.close}, between ${lowest.toFixed(2)} and ${highest.toFixed(2)}.`
      : "No trades yet.";
    if (by("chart-words").textContent !== text) by("chart-words").textContent = text;
    if (!document.querySelector(".chart details").open) return;
    by("candle-table").tBodies[0].replaceChildren(
      ...this.candles
        .slice(-30)
        .reverse()
        .map((each) => row([clock(each.start), ...[each.open, each.high, each.low, each.close, String(each.volume)].map(number)])),
    );
  }
}

export function sparkline(values) {
  const space = "http://www.w3.org/2000/svg";
  const picture = document.createElementNS(space, "svg");
  picture.setAttribute("viewBox", "0 0 100 30");
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("aria-hidden", "true");
  const shape = document.createElementNS(space, "polyline");
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const y = (value) => (high > low ? 27 - ((value - low) / (high - low)) * 24 : 15);
  shape.setAttribute("points", values.map((value, place) => `${(place / Math.max(1, values.length - 1)) * 100},${y(value)}`).join(" "));
  picture.append(shape);
  return picture;
}

function colors() {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue(name).trim();
  return {
    buy: get("--buy"), sell: get("--sell"), buySoft: get("--buy-soft"), sellSoft: get("--sell-soft"),
    quiet: get("--quiet"), line: get("--line"), accent: get("--accent"), on: get("--on"),
  };
}

function line(pen, ...[fromX, fromY, toX, toY]) {
  pen.beginPath();
  pen.moveTo(Math.round(fromX) + 0.5, fromY);
  pen.lineTo(Math.round(toX) + 0.5, toY);
  pen.stroke();
}

function grid(pen, width, low, high, last, y, color) {
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2].find((each) => (high - low) / each <= 6) ?? 2;
  pen.strokeStyle = color.line;
  pen.fillStyle = color.quiet;
  for (let price = Math.ceil(low / step) * step; price <= high + step / 2; price += step) {
    pen.beginPath();
    pen.moveTo(0, Math.round(y(price)) + 0.5);
    pen.lineTo(width - GAP, Math.round(y(price)) + 0.5);
    pen.stroke();
    if (Math.abs(y(price) - y(last)) > 16 && y(price) > 6) pen.fillText(price.toFixed(2), width - GAP + 12, y(price) + 4);
  }
}
