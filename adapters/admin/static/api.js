/** The admin API: requests, and errors with the words that the server gave them. */

const TIMEOUT_MS = 20_000;

/** Fires `loggedout` when a login is over. */
export const session = new EventTarget();

/** `status` is 0 where no answer came; then `code` is `unreachable` or `slow`. */
export class ApiError extends Error {
  constructor(status, error, isWrite = false) {
    super(error?.message ?? '');
    this.status = status;
    this.code = error?.code ?? '';
    this.field = error?.field ?? null;
    this.requestId = error?.requestId ?? null;
    this.isWrite = isWrite;
  }
}

/** @param {string} path below /admin/api/ */
export function get(path) {
  return request('GET', path);
}

/** @param {string} path below /admin/api/ */
export function post(path, body = {}, timeoutMs = TIMEOUT_MS) {
  return request('POST', path, body, timeoutMs);
}

async function request(method, path, body, timeoutMs = TIMEOUT_MS) {
  const { status, value } = await answer(method, path, body, timeoutMs);
  if (status < 300 && value) return value;
  if (status === 401 && path !== 'login') session.dispatchEvent(new Event('loggedout'));
  throw new ApiError(status, value?.error);
}

async function answer(method, path, body, timeoutMs) {
  const headers = { 'X-Myna-Admin': '1' };
  if (body) headers['Content-Type'] = 'application/json';
  const signal = AbortSignal.timeout(timeoutMs);
  try {
    const response = await fetch(`/admin/api/${path}`, { method, headers, body: body && JSON.stringify(body), cache: 'no-store', signal });
    const text = await response.text();
    return { status: response.status, value: parsed(text) };
  } catch {
    throw new ApiError(0, { code: signal.aborted ? 'slow' : 'unreachable' }, method === 'POST' && path !== 'login');
  }
}

/** Null for what is no JSON: a proxy may answer in our place. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
