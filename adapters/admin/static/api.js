/** The admin API: requests, and errors with the words that the server gave them. */

const TIMEOUT_MS = 20_000;
// For the largest file over a slow line.
const UPLOAD_TIMEOUT_MS = 600_000;

/** Fires `loggedout` when a login is over. */
export const session = new EventTarget();

/** `status` is 0 where no answer came; then `code` is `unreachable` or `slow`. */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {{message?: string, code?: string, field?: string, hint?: string, requestId?: string}|null} [error]
   *   as the server told it
   * @param {boolean} [isWrite] something may have been changed
   */
  constructor(status, error, isWrite = false) {
    super(error?.message ?? '');
    this.status = status;
    this.code = error?.code ?? '';
    this.field = error?.field ?? null;
    this.hint = error?.hint ?? null;
    this.requestId = error?.requestId ?? null;
    this.isWrite = isWrite;
  }
}

/** The status of a refusal; -1 for any other error. @param {unknown} error */
export function statusOf(error) {
  return error instanceof ApiError ? error.status : -1;
}

/** The field that a refusal is about. @param {unknown} error @returns {string|null} */
export function fieldOf(error) {
  return error instanceof ApiError ? error.field : null;
}

/**
 * Somebody may have typed on meanwhile: what came is then no answer any more, and is asked for again.
 * @param {() => string} query the path that is wanted now
 * @returns {Promise<any>}
 */
export async function getNewest(query) {
  const wanted = query();
  const value = await get(wanted);
  return wanted === query() ? value : getNewest(query);
}

/** @param {string} path below /admin/api/ */
export function get(path, timeoutMs = TIMEOUT_MS) {
  return request('GET', path, undefined, timeoutMs);
}

/** @param {string} path below /admin/api/ */
export function post(path, body = {}, timeoutMs = TIMEOUT_MS) {
  return request('POST', path, body, timeoutMs);
}

/**
 * Sends a file as it is. `fetch` does not tell how much of it is sent.
 * @param {string} path below /admin/api/
 * @param {(share: number) => void} tell
 */
export async function upload(path, file, tell) {
  const request = new XMLHttpRequest();
  request.open('POST', `/admin/api/${path}`);
  request.timeout = UPLOAD_TIMEOUT_MS;
  request.setRequestHeader('X-Myna-Admin', '1');
  request.setRequestHeader('Content-Type', 'application/octet-stream');
  request.upload.addEventListener('progress', ({ loaded, total }) => tell(total ? loaded / total : 0));
  await new Promise((resolve, reject) => {
    const fail = (code) => () => reject(new ApiError(0, { code }, true));
    request.addEventListener('load', resolve);
    request.addEventListener('error', fail('unreachable'));
    request.addEventListener('timeout', fail('slow'));
    request.send(file);
  });
  return checked(path, request.status, parsed(request.responseText));
}

async function request(method, path, body, timeoutMs = TIMEOUT_MS) {
  const { status, value } = await answer(method, path, body, timeoutMs);
  return checked(path, status, value);
}

/** What the server answered; throws where that is an error. */
function checked(path, status, value) {
  if (status < 300 && value) return value;
  if (status === 401 && path !== 'login') session.dispatchEvent(new Event('loggedout'));
  throw new ApiError(status, value?.error);
}

async function answer(method, path, body, timeoutMs) {
  const headers = { 'X-Myna-Admin': '1' };
  if (body) headers['Content-Type'] = 'application/json';
  const signal = AbortSignal.timeout(timeoutMs);
  try {
    const sent = body && JSON.stringify(body);
    const response = await fetch(`/admin/api/${path}`, { method, headers, body: sent, cache: 'no-store', signal });
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
