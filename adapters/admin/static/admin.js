/** The admin page: who is logged in, the navigation, and the page that is shown, kept fresh while it is seen. */

import { h, icon, iconButton, logo, stylesheet } from '/static/dom.js';
import { base, tokens } from '/static/styles.js';
import { get, post, session } from './api.js';
import { loginView, passwordDialog } from './login.js';
import { accountsPage } from './page_accounts.js';
import { answersPage } from './page_answers.js';
import { articlesPage } from './page_articles.js';
import { auditPage } from './page_audit.js';
import { comparePage } from './page_compare.js';
import { datasetsPage } from './page_datasets.js';
import { feedbackPage } from './page_feedback.js';
import { intentsPage } from './page_intents.js';
import { jobsPage } from './page_jobs.js';
import { overviewPage } from './page_overview.js';
import { peoplePage } from './page_people.js';
import { versionsPage } from './page_versions.js';
import { lang, t, word } from './strings.js';
import { attempt, errorText, empty, freshenTimes, noticeRegion } from './ui.js';

const TICK_MS = 1000;
/** How often a page asks for news; often while a job or a trial goes on. */
const REFRESH_MS = 15_000;
const BUSY_REFRESH_MS = 2000;
/** @typedef {{name: string, role: string, roles: string[]}} Account */
/**
 * What a page is made from.
 * @typedef {object} Context
 * @property {string[]} params  what stands in the address behind the page's name
 * @property {Account} account
 * @property {(role: string) => boolean} may
 * @property {(text: string) => void} setHeading
 */
/**
 * @typedef {object} Page
 * @property {HTMLElement} node
 * @property {() => Promise<void>} [refresh]
 * @property {(event: KeyboardEvent) => void} [onKey]
 */

/**
 * Each page: the least role that sees it, and what makes it.
 * @type {Record<string, {needs: string, make: (context: Context) => Page}>}
 */
const PAGES = {
  overview: { needs: 'viewer', make: overviewPage },
  feedback: { needs: 'agent', make: feedbackPage },
  articles: { needs: 'viewer', make: articlesPage },
  answers: { needs: 'viewer', make: answersPage },
  intents: { needs: 'viewer', make: intentsPage },
  datasets: { needs: 'viewer', make: datasetsPage },
  jobs: { needs: 'viewer', make: jobsPage },
  versions: { needs: 'viewer', make: versionsPage },
  compare: { needs: 'viewer', make: comparePage },
  people: { needs: 'admin', make: peoplePage },
  accounts: { needs: 'admin', make: accountsPage },
  audit: { needs: 'viewer', make: auditPage },
};

const drawer = matchMedia('(max-width: 860px)');
let title = 'Myna';
/** Who is logged in. @type {Account|null} */
let account = null;
/** What is around the page that is shown. @type {ReturnType<typeof makeFrame>|null} */
let parts = null;
/** @type {Page|null} */
let shown = null;
let refreshedAt = 0;
let held = false;
/** @type {Set<Promise<void>>} */
const refreshing = new Set();

start();

async function start() {
  document.documentElement.lang = lang;
  document.adoptedStyleSheets = [tokens, base].map(stylesheet);
  window.addEventListener('hashchange', () => show());
  session.addEventListener('loggedout', () => { if (account) logIn(t('loginOver')); });
  document.addEventListener('visibilitychange', () => { if (!document.hidden) tick(); });
  document.addEventListener('keydown', onKey);
  drawer.addEventListener('change', () => { if (parts) setMenu(false); });
  setInterval(tick, TICK_MS);
  await begin();
}

async function begin() {
  try {
    const found = await get('session');
    title = found.title;
    if (found.account) enter(found.account);
    else logIn('', found.firstCommand);
  } catch (error) {
    document.body.replaceChildren(h('main', { class: 'login' }, h('p', { role: 'alert' }, errorText(error)),
      h('button', { type: 'button', class: 'button', onclick: () => begin() }, t('tryAgain'))));
  }
}

function logIn(message = '', firstCommand = null) {
  account = null;
  shown = null;
  document.querySelectorAll('dialog').forEach((dialog) => dialog.close());
  document.title = `${t('logIn')} · ${title}`;
  document.body.replaceChildren(loginView({ title, message, firstCommand, onLogin: enter, again: begin }));
  document.querySelector('input')?.focus();
}

/** @param {Account} who */
function enter(who) {
  account = who;
  parts = makeFrame(who);
  const first = h('a', { class: 'skip', href: '#content', onclick: skip }, t('skip'));
  document.body.replaceChildren(first, parts.side, parts.scrim, parts.main, noticeRegion());
  setMenu(false);
  show();
}

/** @param {string} needed a role */
function may(needed) {
  return account !== null && account.roles.includes(needed);
}

// --- the frame ---

/** There while somebody is logged in. */
function frame() {
  if (!parts) throw new Error('nobody is logged in');
  return parts;
}

/** @param {Account} who */
function makeFrame(who) {
  const names = Object.keys(PAGES).filter((name) => may(PAGES[name].needs));
  const links = names.map((name) => h('a', {
    href: `#/${name}`, 'data-page': name, onclick: () => setMenu(false),
  }, word('page', name)));
  const nav = h('nav', { 'aria-label': t('pages') }, h('ul', {}, ...links.map((one) => h('li', {}, one))));
  const own = h('div', { class: 'who' },
    h('p', {}, h('strong', {}, who.name), h('span', {}, word('role', who.role))),
    h('div', { class: 'actions' },
      h('button', { type: 'button', class: 'button small', onclick: () => passwordDialog(alone) }, t('changePassword')),
      h('button', { type: 'button', class: 'button small', onclick: logOut }, t('logOut'))));
  const hide = iconButton('close', t('hideMenu'), () => setMenu(false, true), 'when-drawer');
  const side = h('aside', { class: 'side', id: 'side', 'aria-label': t('menu') },
    h('div', { class: 'side-head' }, logo(), h('div', { class: 'brand' }, title), hide), nav, own);
  const menu = iconButton('menu', t('showMenu'), () => setMenu(true, true), 'when-drawer');
  menu.setAttribute('aria-controls', 'side');
  const heading = h('h1', { tabindex: '-1' });
  const content = h('div', { class: 'content', id: 'content', tabindex: '-1' });
  const main = h('main', {}, h('header', { class: 'bar' }, menu, heading), content);
  const scrim = h('div', { class: 'scrim', onclick: () => setMenu(false, true) });
  return { side, links, menu, hide, heading, content, main, scrim };
}

function skip(event) {
  event.preventDefault();
  frame().content.focus();
}

function setMenu(open, moveFocus = false) {
  const isDrawer = drawer.matches;
  const { side, main, menu, hide } = frame();
  side.hidden = isDrawer && !open;
  main.inert = isDrawer && open;
  menu.setAttribute('aria-expanded', String(open));
  document.body.classList.toggle('menu-open', isDrawer && open);
  if (moveFocus) (open ? hide : menu).focus();
}

async function logOut() {
  if (await attempt(() => post('logout'))) logIn(t('loggedOut'));
}

function onKey(event) {
  if (event.key === 'Escape' && parts && document.body.classList.contains('menu-open')) setMenu(false, true);
  const isTyping = event.target instanceof Element && event.target.closest('input, textarea, select, dialog');
  if (account && !isTyping && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) shown?.onKey?.(event);
}

// --- pages ---

function show() {
  if (!account) return;
  const [name = '', ...params] = location.hash.replace(/^#\/?/, '').split('/').map(decode);
  const { links, heading, content, main } = frame();
  const known = PAGES[name] && may(PAGES[name].needs) ? name : links[0].dataset.page ?? '';
  for (const one of links) {
    if (one.dataset.page === known) one.setAttribute('aria-current', 'page');
    else one.removeAttribute('aria-current');
  }
  const moved = shown !== null;
  setHeading(word('page', known));
  const context = { params: known === name ? params.filter(Boolean) : [], account, may, setHeading };
  shown = PAGES[known].make(context);
  main.querySelector('.stale')?.remove();
  content.replaceChildren(shown.node);
  main.scrollTop = 0;
  if (moved) heading.focus({ preventScroll: true });
  refresh(true);
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return '';
  }
}

/** @param {string} text */
function setHeading(text) {
  frame().heading.replaceChildren(text);
  document.title = `${text} · ${title}`;
}

function tick() {
  if (document.hidden || !account) return;
  freshenTimes();
  const every = frame().content.querySelector('[data-busy]') ? BUSY_REFRESH_MS : REFRESH_MS;
  if (Date.now() - refreshedAt >= every) refresh();
}

async function refresh(first = false) {
  if (!shown?.refresh || held || (refreshing.size && !first)) return;
  const one = refreshPage(shown, first);
  refreshing.add(one);
  await one;
  refreshing.delete(one);
  refreshedAt = Date.now();
}

/** @param {Page} page @param {boolean} first */
async function refreshPage(page, first) {
  try {
    await page.refresh?.();
    if (shown === page) frame().main.querySelector('.stale')?.remove();
  } catch (error) {
    if (shown === page && account) tellStale(error, first && !page.node.childNodes.length ? page : null);
  }
}

/**
 * What is shown stays; a line says why it is no longer fresh.
 * @param {unknown} error
 * @param {Page|null} page one that shows nothing yet
 */
function tellStale(error, page) {
  const why = errorText(error);
  if (page) {
    page.node.replaceChildren(empty(why));
    return;
  }
  const { main, content } = frame();
  const text = `${why} ${t('stale')}`;
  const old = main.querySelector('.stale');
  if (old?.textContent === text) return;
  old?.remove();
  content.before(h('p', { class: 'stale', role: 'status' }, icon('alert'), text));
}

/** Runs an action while nothing is refreshed: a request with the login that it ends would look like the end of all. */
async function alone(action) {
  held = true;
  try {
    await Promise.all(refreshing);
    return await action();
  } finally {
    held = false;
  }
}
