import { MynaChat } from './chat.js';
import { focusedElement, h, icon, iconButton, logo, storage, stylesheet } from './dom.js';
import { PrivacyMenu } from './privacy.js';
import { language } from './strings.js';
import { base, menu, tokens } from './styles.js';

const DAY_MS = 86_400_000;
const SIDE_KEY = 'myna:side';

const { lang, t } = language();
const drawer = matchMedia('(max-width: 760px)');
const chat = new MynaChat();
const parts = makeParts();
/** @type {{id: string, title: string, updatedAt: number}[]} */
let chats = [];
let loads = 0;

start();

function start() {
  document.documentElement.lang = lang;
  document.adoptedStyleSheets = [tokens, base, menu].map(stylesheet);
  const wanted = chatInAddress();
  if (wanted) chat.initialChat = wanted;
  listen();
  document.body.append(parts.side, parts.scrim, parts.content);
  setSide(!drawer.matches && storage.get(SIDE_KEY) !== 'closed');
  setAddress('replaceState');
  loadChats();
  if (matchMedia('(hover: hover)').matches) chat.focusInput();
}

function makeParts() {
  const brand = h('div', { class: 'brand' }, 'Myna');
  const list = h('nav', { class: 'chats', 'aria-label': t('chats') });
  const hide = iconButton('sidebar', t('hideChats'), () => closeSide());
  const show = iconButton('sidebar', t('showChats'), () => setSide(true, true), 'when-closed');
  show.setAttribute('aria-expanded', 'false');
  const heading = h('h1', { dir: 'auto' }, 'Myna');
  const add = h('button', { type: 'button', class: 'new', onclick: () => startNew() }, icon('plus'), t('newChat'));
  const side = h('aside', { class: 'side', id: 'side', 'aria-label': t('chats') },
    h('div', { class: 'side-head' }, logo(), brand, hide), add, list);
  const bar = h('header', { class: 'bar' }, show, heading, new PrivacyMenu(t, chat).element,
    iconButton('plus', t('newChat'), () => startNew(), 'when-closed'));
  const content = h('main', { class: 'content' }, bar, chat);
  const scrim = h('div', { class: 'scrim', onclick: () => closeSide() });
  return { brand, list, hide, show, heading, side, content, scrim };
}

function listen() {
  chat.addEventListener('myna:ready', () => drawTitle());
  chat.addEventListener('myna:activity', () => { setAddress('replaceState'); loadChats(); });
  chat.addEventListener('myna:chat', () => { setAddress('pushState'); draw(); });
  chat.addEventListener('myna:message', () => setAddress('replaceState'));
  window.addEventListener('popstate', () => chat.openChat(chatInAddress()));
  window.addEventListener('focus', () => loadChats());
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && drawer.matches && isSideOpen()) closeSide();
  });
  drawer.addEventListener('change', () => setSide(!drawer.matches));
}

// --- address ---

function chatInAddress() {
  return new URLSearchParams(location.search).get('chat');
}

/** @param {'pushState'|'replaceState'} how */
function setAddress(how) {
  const id = chat.chatId;
  if (id === chatInAddress()) return;
  const url = new URL(location.href);
  if (id) url.searchParams.set('chat', id);
  else url.searchParams.delete('chat');
  history[how](null, '', url);
}

// --- list of chats ---

async function loadChats() {
  const load = loads += 1;
  try {
    const answer = await chat.api.chats();
    if (load !== loads) return;
    chats = answer.chats;
    draw();
  } catch {
    if (load === loads && !chats.length) parts.list.replaceChildren(h('p', {}, t('chatsFailed')));
  }
}

function draw() {
  const focused = parts.list.contains(document.activeElement) ? focusedElement()?.dataset.id : null;
  const groups = Map.groupBy ? Map.groupBy(chats, age) : groupBy(chats, age);
  const nodes = [...groups].flatMap(([name, group]) => [h('h2', {}, t(name)), h('ul', {}, ...group.map(item))]);
  parts.list.replaceChildren(...(nodes.length ? nodes : [h('p', {}, t('noChats'))]));
  if (focused) [...parts.list.querySelectorAll('a')].find((link) => link.dataset.id === focused)?.focus();
  drawTitle();
}

function groupBy(items, keyOf) {
  const groups = new Map();
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item]);
  return groups;
}

function age({ updatedAt }) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (updatedAt >= midnight) return 'today';
  if (updatedAt >= midnight - DAY_MS) return 'yesterday';
  return updatedAt >= midnight - 6 * DAY_MS ? 'lastWeek' : 'earlier';
}

function item({ id, title }) {
  const link = h('a', {
    href: `?chat=${encodeURIComponent(id)}`,
    dir: 'auto',
    title,
    'data-id': id,
    'aria-current': id === chat.chatId ? 'page' : null,
    onclick: (event) => openHere(event, id),
  }, title || t('untitled'));
  return h('li', {}, link);
}

function openHere(event, id) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  chat.openChat(id);
  if (drawer.matches) closeSide();
}

function startNew() {
  chat.newChat();
  if (drawer.matches) setSide(false);
  chat.focusInput();
}

function drawTitle() {
  const current = chats.find(({ id }) => id === chat.chatId);
  parts.brand.textContent = chat.name;
  parts.heading.textContent = current?.title || (isSideOpen() && !drawer.matches ? '' : chat.name);
  document.title = current?.title ? `${current.title} · ${chat.name}` : chat.name;
}

// --- side bar ---

function isSideOpen() {
  return !parts.side.hidden;
}

function setSide(open, moveFocus = false) {
  parts.side.hidden = !open;
  parts.content.inert = open && drawer.matches;
  parts.show.setAttribute('aria-expanded', String(open));
  document.body.classList.toggle('side-open', open);
  if (!drawer.matches) storage.set(SIDE_KEY, open ? 'open' : 'closed');
  if (moveFocus) parts.hide.focus();
  drawTitle();
}

function closeSide() {
  setSide(false);
  parts.show.focus();
}
