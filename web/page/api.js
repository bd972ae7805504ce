// Calls of the REST API. The token is kept in this variable alone.
let token = "";
let loggedOut = () => {};
let ending = 0;
const TIMER_MAX_MS = 2 ** 31 - 1;

export const hasToken = () => token !== "";
export const currentToken = () => token;
export const onLogout = (told) => (loggedOut = told);

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `status ${status}`);
    this.status = status;
    this.errors = problem.errors ?? [];
  }
}

export async function call(method, path, body, headers = {}) {
  const sent = { accept: "application/json", ...headers };
  if (body !== undefined) sent["content-type"] = "application/json";
  if (token) sent.authorization = `Bearer ${token}`;
  const answer = await fetch(path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body) });
  const content = await answer.json();
  if (answer.ok) return content;
  if (answer.status === 401 && token) logout("Your session has ended: log in again.");
  throw new Refused(answer.status, content);
}

export async function login(traderId, apiKey) {
  keep(await call("POST", "/auth/token", { trader_id: traderId, api_key: apiKey }));
}

export async function loginByCode(code) {
  const given = await call("POST", "/auth/login-code", { login_code: code });
  keep(given);
  return given.trader_id;
}

function keep(given) {
  token = given.access_token;
  clearTimeout(ending);
  ending = setTimeout(() => logout("Your session has ended: log in again."), Math.min(given.expires_in * 1000, TIMER_MAX_MS));
}

export function logout(reason) {
  if (!token) return;
  token = "";
  clearTimeout(ending);
  loggedOut(reason);
}
