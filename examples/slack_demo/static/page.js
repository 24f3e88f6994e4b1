/** The page: what one person sees of the fake Slack, kept up to date by one stream, and what they do in it. */

import { Composer } from './composer.js';
import { find, h, show, tool } from './dom.js';
import { formElement, showErrors } from './form.js';
import { avatar, messageElement } from './message.js';

const side = find(document, '.side', HTMLElement);
const main = find(document, 'main', HTMLElement);
const aside = find(document, '.thread', HTMLElement);
const toast = find(document, '.toast', HTMLElement);
const people = find(side, 'select', HTMLSelectElement);

/** What the server says: a person sees it. @type {any} */
let seen = null;
/** What is chosen here: who one is, where one looks. */
const here = { user: '', channel: '', thread: '', editing: '', showsJournal: false, takesFocus: false, awaited: '' };
const dismissed = new Set();
const read = new Map();
/** @type {EventSource|null} */
let source = null;
/** @type {HTMLDialogElement|null} */
let dialog = null;
let toastTimer = 0;

// --- what is asked of the server ---

/** Does something as the person that one is now; says so where it fails. */
async function act(name, body = {}) {
  try {
    const response = await fetch(`/demo/${name}`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ user: here.user, channel: here.channel, ...body }),
    });
    const answer = await response.json();
    if (response.ok) return answer;
    say(answer.error);
  } catch {
    say('The fake Slack does not answer. Was it stopped?');
  }
  return null;
}

function say(words) {
  toast.textContent = words;
  toast.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { toast.hidden = true; }, 5000);
}

function listen() {
  source?.close();
  source = new EventSource(`/demo/events?user=${encodeURIComponent(here.user)}`);
  source.onmessage = (event) => {
    document.body.classList.remove('offline');
    const isFirst = seen?.me !== here.user;
    seen = JSON.parse(event.data);
    if (isFirst) forgetWhatIsGone();
    draw();
  };
  source.onerror = () => document.body.classList.add('offline');
}

/** An address may be older than the fake, which keeps nothing when it is stopped. */
function forgetWhatIsGone() {
  if (!seen.channels.some((one) => one.id === here.channel)) Object.assign(here, { channel: 'C0SHOP', thread: '' });
  if (!seen.messages[here.channel].some((one) => one.ts === here.thread)) here.thread = '';
}

// --- going somewhere ---

/** Where one is stands in the address, so that a reload leads back. */
function go(changes, pane) {
  const before = { ...here };
  Object.assign(here, changes);
  if (here.user !== before.user || here.channel !== before.channel || here.thread !== before.thread) here.awaited = '';
  if (here.user !== before.user) {
    here.editing = '';
    listen();
  }
  composer.moveTo(`${here.user}/${here.channel}`);
  threadComposer.moveTo(`${here.user}/${here.channel}/${here.thread}`);
  if (pane) document.body.dataset.pane = pane;
  history.replaceState(null, '', `#${[here.user, here.channel, here.thread].join('/')}`);
  if (here.channel !== before.channel || here.user !== before.user) void act('open');
  draw();
}

const directOf = (user) => `D0${user.slice(2)}`;

/** Whoever one is by now: what is on the page may still be another's. */
function openChannel(channel) {
  go({ channel: channel.is_direct ? directOf(here.user) : channel.id, thread: '', editing: '' }, 'main');
}

function openThread(ts) {
  go({ thread: ts, takesFocus: true }, 'thread');
}

function closeThread() {
  go({ thread: '' }, 'main');
  composer.area.focus();
}

function become(user) {
  const isDirect = here.channel.startsWith('D');
  go({ user, channel: isDirect ? directOf(user) : here.channel, thread: isDirect ? '' : here.thread });
}

// --- writing ---

const composer = new Composer(async (text, files) => {
  if (text.startsWith('/') && !files.length) {
    const [command, ...rest] = text.split(' ');
    await act('slash', { command, text: rest.join(' ') });
    return;
  }
  const place = here.channel;
  const done = await act('say', { text, files });
  if (done && place === here.channel) here.awaited = done.ts;
  draw();
});

const threadComposer = new Composer(async (text, files) => {
  if (text.startsWith('/')) say(`${text.split(' ')[0]} does not work in threads. Write it in the channel.`);
  else await act('say', { text, files, thread: here.thread });
});

const on = {
  reply: (message) => openThread(message.thread || message.ts),
  remove: (message) => act('delete', { ts: message.ts }),
  dismiss: (message) => { dismissed.add(`${here.user}/${message.key}`); draw(); },
  press: (message, action, value) => act('click', {
    action, value, ...(message.ephemeral === undefined ? { ts: message.ts } : { ephemeral: message.ephemeral }),
  }),
  save: async (message, text) => {
    go({ editing: '' });
    if (text !== message.text) await act('edit', { ts: message.ts, text });
  },
};

threadComposer.setLabel('Reply ...');

// --- drawing ---

function draw() {
  if (!seen || seen.me !== here.user) return;
  const users = new Map(seen.users.map((one) => [one.id, one]));
  const channel = seen.channels.find((one) => one.id === here.channel);
  if (!channel) return;
  const messages = (seen.messages[channel.id] ?? []).filter((one) => !dismissed.has(`${here.user}/${one.key}`));
  if (here.awaited && hasAnswer(here.awaited, messages)) {
    openThread(here.awaited);
    return;
  }
  drawSide(users);
  drawMain(channel, messages, users);
  drawThread(channel, messages, users);
  drawJournal();
  drawForm();
}

/** Whether anything comes in a thread. Who began it wants to see that. */
function hasAnswer(thread, messages) {
  const isWorking = seen.working.some((one) => one.channel === here.channel && one.thread === thread);
  return isWorking || messages.some((one) => one.thread === thread && one.ts !== thread);
}

function drawSide(users) {
  const groups = [['Channels', seen.channels.filter((one) => !one.is_direct)],
    ['Direct messages', seen.channels.filter((one) => one.is_direct)]];
  const items = groups.flatMap(([title, channels]) => [
    { key: title, signature: '', make: () => h('h2', {}, title) },
    ...channels.map((one) => placeItem(one, users)),
  ]);
  show(find(side, '.places', HTMLElement), items);
  const known = seen.users.filter((one) => !one.is_bot);
  if (people.options.length !== known.length) {
    people.replaceChildren(...known.map((one) => h('option', { value: one.id }, `${one.name} (${one.locale})`)));
  }
  people.value = here.user;
  show(find(side, '.me-avatar', HTMLElement),
    [{ key: here.user, signature: '', make: () => avatar(users.get(here.user)) }]);
}

function placeItem(channel, users) {
  const messages = seen.messages[channel.id] ?? [];
  const newest = messages.length ? messages[messages.length - 1].at : 0;
  const key = `${here.user}/${channel.id}`;
  const isHere = channel.id === here.channel;
  if (isHere || !read.has(key)) read.set(key, newest);
  const isNew = newest > read.get(key);
  const make = () => {
    const face = channel.is_direct ? avatar(users.get(seen.bot), 'small')
      : h('span', { class: 'hash', 'aria-hidden': 'true' }, '#');
    const button = h('button', {
      type: 'button', class: `place${isNew ? ' new' : ''}`, 'aria-current': isHere && 'page',
      onclick: () => openChannel(channel),
    }, face, channel.name);
    if (channel.is_direct) button.append(h('span', { class: 'badge' }, 'APP'));
    if (isNew) button.append(h('span', { class: 'dot', role: 'img', 'aria-label': 'unread' }));
    return button;
  };
  return { key: channel.id, signature: `${isHere}/${isNew}`, make };
}

function drawMain(channel, messages, users) {
  const members = channel.members.map((id) => users.get(id).name).join(', ');
  const about = channel.is_direct ? 'Only you and Myna read this' : members;
  drawBar(main, `${channel.id}/${here.showsJournal}`, () => [
    tool('back', 'Back to the channels', () => go({}, 'side'), 'tool to-side'),
    h('div', { class: 'bar-words' }, h('h2', {}, channel.is_direct ? 'Myna' : `# ${channel.name}`), h('p', {}, about)),
    journalButton(),
  ]);
  const roots = messages.filter((one) => (one.ephemeral === undefined ? one.thread === one.ts : !one.thread));
  drawMessages(find(main, '.messages', HTMLElement), roots, users, messages, false);
  drawFoot(channel, messages.length === 0);
  composer.setLabel(channel.is_direct ? 'Message Myna' : `Message #${channel.name}`);
}

function drawBar(within, signature, make) {
  const parts = () => h('div', { class: 'bar-inside' }, ...make());
  show(find(within, '.bar', HTMLElement), [{ key: 'bar', signature, make: parts }]);
}

function journalButton() {
  const button = tool('list', 'Log of calls and events', () => go({ showsJournal: !here.showsJournal }), 'tool');
  button.setAttribute('aria-pressed', String(here.showsJournal));
  return button;
}

function drawFoot(channel, isEmpty) {
  const prompts = isEmpty && channel.is_direct ? seen.prompts[channel.id] ?? [] : [];
  const make = () => h('div', { class: 'prompts' }, ...prompts.map((one) =>
    h('button', { type: 'button', class: 'prompt', onclick: () => composer.send(one.message, []) }, one.title)));
  const items = prompts.length ? [{ key: 'prompts', signature: JSON.stringify([here.user, prompts]), make }] : [];
  show(find(main, '.foot', HTMLElement), [...items, { key: 'composer', signature: '', make: () => composer.element }]);
}

function drawThread(channel, messages, users) {
  const inside = messages.filter((one) => here.thread && one.thread === here.thread);
  aside.hidden = inside.length === 0;
  if (aside.hidden) {
    if (document.body.dataset.pane === 'thread' && !here.thread) document.body.dataset.pane = 'main';
    return;
  }
  const title = seen.titles.find((one) => one.channel === channel.id && one.thread === here.thread)?.title ?? '';
  drawBar(aside, title, () => [
    tool('back', 'Back to the channel', closeThread, 'tool to-main'),
    h('div', { class: 'bar-words' }, h('h2', {}, 'Thread'), h('p', {}, title)),
    tool('close', 'Close thread', closeThread, 'tool not-small'),
  ]);
  drawMessages(find(aside, '.messages', HTMLElement), inside, users, messages, true);
  drawStatus();
  show(find(aside, '.foot', HTMLElement), [{ key: 'composer', signature: '', make: () => threadComposer.element }]);
  if (here.takesFocus) threadComposer.area.focus();
  here.takesFocus = false;
}

/** What the bot does in the thread, and a way to end it. */
function drawStatus() {
  const working = seen.working.find((one) => one.channel === here.channel && one.thread === here.thread);
  const stop = (event) => {
    event.currentTarget.disabled = true;
    void act('stop', { thread: here.thread });
  };
  const make = () => h('div', { class: 'working-line' }, h('span', { class: 'pulse', 'aria-hidden': 'true' }),
    h('span', { class: 'words' }, `Myna ${working.words}`),
    h('button', { type: 'button', class: 'button stop', onclick: stop }, 'Stop'));
  show(find(aside, '.status', HTMLElement), working ? [{ key: working.thread, signature: working.words, make }] : []);
}

/** Stays at the end if it was there. */
function drawMessages(log, messages, users, all, isThread) {
  const place = `${here.user}/${here.channel}/${isThread ? here.thread : ''}`;
  if (log.dataset.place !== place) log.dataset.atEnd = 'true';
  log.dataset.place = place;
  const items = messages.map((message) => {
    const isEditing = here.editing === `${place}/${message.key}`;
    const replies = isThread ? null : repliesTo(message, all);
    const edit = (chosen) => go({ editing: chosen ? `${place}/${chosen.key}` : '' });
    const around = { users, me: here.user, isEditing, hasThread: !isThread, replies, on: { ...on, edit } };
    const signature = isEditing ? 'editing' : JSON.stringify([message, replies, here.user]);
    return { key: `${here.channel}/${message.key}`, signature, make: () => messageElement(message, around) };
  });
  show(log, items.length ? items : [emptyItem(isThread)]);
  stayAtEnd(log);
}

function stayAtEnd(log) {
  if (log.dataset.atEnd === 'true') log.scrollTop = log.scrollHeight;
}

function emptyItem(isThread) {
  const isDirect = here.channel.startsWith('D');
  const words = isDirect ? 'This is the beginning of your conversation with Myna.'
    : 'Nothing has been said here yet. Mention @Myna to get an answer.';
  return { key: 'empty', signature: `${here.channel}/${isThread}`, make: () => h('p', { class: 'empty' }, words) };
}

function repliesTo(message, all) {
  const inside = all.filter((one) => message.ts && one.ephemeral === undefined && one.thread === message.ts
    && one.ts !== message.ts);
  const isWorking = seen.working.some((one) => one.channel === here.channel && one.thread === message.ts);
  if (!inside.length && !isWorking) return null;
  const by = [...new Set(inside.map((one) => one.user))].slice(0, 3);
  return { count: inside.length, by, last: inside.length ? inside[inside.length - 1].at : 0, isWorking };
}

function drawJournal() {
  const drawer = find(main, '.journal', HTMLElement);
  drawer.hidden = !here.showsJournal;
  if (drawer.hidden) return;
  show(drawer, seen.journal.map((line) => ({ key: String(line.number), signature: '',
    make: () => journalLine(line) })));
  stayAtEnd(drawer);
}

function journalLine(line) {
  const way = line.sender === 'Slack' ? 'Slack → Myna' : 'Myna → Slack';
  return h('p', { class: `line ${line.ok ? '' : 'failed'}`.trim() },
    h('time', {}, new Date(line.at * 1000).toLocaleTimeString('en-GB')), h('span', { class: 'way' }, way),
    h('code', {}, line.name), h('span', { class: 'outcome' }, line.outcome));
}

/** The form stays as it is while it is filled in; only what is wrong with it comes and goes. */
function drawForm() {
  const key = seen.view ? `${seen.view.id}/${seen.view.hash}` : '';
  if (dialog && dialog.dataset.key !== key) {
    dialog.remove();
    dialog = null;
  }
  if (!seen.view) return;
  const { id, errors } = seen.view;
  if (!dialog) {
    dialog = formElement(seen.view, (values) => act('submit', { view: id, values }), () => act('cancel', { view: id }));
    dialog.dataset.key = key;
    document.body.append(dialog);
    dialog.showModal();
  }
  if (dialog.dataset.errors !== JSON.stringify(errors)) showErrors(dialog, errors);
  dialog.dataset.errors = JSON.stringify(errors);
}

// --- beginning ---

// What is read at its end stays there, whatever comes and however high it is.
/** @type {NodeListOf<HTMLElement>} */
const logs = document.querySelectorAll('.log, .journal');
const resized = new ResizeObserver((entries) => entries.forEach((one) => stayAtEnd(one.target)));
for (const log of logs) {
  log.dataset.atEnd = 'true';
  log.addEventListener('scroll', () => {
    log.dataset.atEnd = String(log.scrollHeight - log.scrollTop - log.clientHeight < 60);
  });
  resized.observe(log);
}

people.addEventListener('change', () => become(people.value));
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && !dialog && here.thread) closeThread();
});

const [user, channel, thread] = location.hash.slice(1).split('/');
go({ user: user || 'U0ANA', channel: channel || 'C0SHOP', thread: thread || '' }, thread ? 'thread' : 'main');
