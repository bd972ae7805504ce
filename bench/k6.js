// 100 traders for 60 seconds: each places orders, and now and then reads its orders, a book or the trades of a card.
// bench/README.md says how to run it. TOKENS: a file with a bearer token a line, one for each user; BASE: the API.
import http from 'k6/http';
import { check } from 'k6';
import { scenario, vu } from 'k6/execution';

const BASE = __ENV.BASE || 'http://127.0.0.1:8000';
const TOKENS = open(__ENV.TOKENS).trim().split('\n');
const CARDS = ['pikachu', 'bulbasaur', 'charmander', 'squirtle'];
const USERS = Number(__ENV.USERS || 100);

export const options = {
  scenarios: { traders: { executor: 'constant-vus', vus: USERS, duration: __ENV.DURATION || '60s' } },
  thresholds: {
    http_req_failed: ['rate==0'],
    checks: ['rate==1'],
  },
  summaryTrendStats: ['avg', 'med', 'p(95)', 'p(99)', 'max'],
};

function any(list) {
  return list[Math.floor(Math.random() * list.length)];
}

export function setup() {
  if (TOKENS.length < USERS) throw new Error(`${TOKENS.length} tokens for ${USERS} users`);
}

export default function () {
  const headers = { authorization: `Bearer ${TOKENS[vu.idInTest - 1]}`, 'content-type': 'application/json' };
  const card = any(CARDS);
  const order = {
    card,
    side: any(['buy', 'sell']),
    price: ((100 + Math.floor(Math.random() * 901)) / 100).toFixed(2),
  };
  const placed = http.post(`${BASE}/orders`, JSON.stringify(order), { headers, tags: { name: 'place' } });
  check(placed, { 'accepted': (answer) => answer.status === 202 && answer.json('status') === 'accepted' });

  const dice = scenario.iterationInTest % 10;
  if (dice === 0) {
    const mine = http.get(`${BASE}/orders`, { headers, tags: { name: 'my orders' } });
    // An order is listed once it is matched, milliseconds after its 202.
    check(mine, { 'my orders': (answer) => answer.status === 200 && Array.isArray(answer.json('orders')) });
  } else if (dice === 1) {
    const book = http.get(`${BASE}/cards/${card}/book`, { headers, tags: { name: 'book' } });
    check(book, { 'book': (answer) => answer.status === 200 && answer.json('card') === card });
  } else if (dice === 2) {
    const trades = http.get(`${BASE}/cards/${card}/trades`, { headers, tags: { name: 'trades' } });
    check(trades, { 'trades': (answer) => answer.status === 200 });
  }
}
