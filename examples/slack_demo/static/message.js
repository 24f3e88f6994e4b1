/** One message as an element: who, when, what, its blocks, and what may be done with it. */

import { h, icon, tool } from './dom.js';
import { formatted } from './text.js';

/**
 * What a message's element needs besides the message.
 * @typedef {object} Around
 * @property {Map<string, {id: string, name: string, is_bot: boolean}>} users
 * @property {string} me
 * @property {boolean} isEditing
 * @property {boolean} hasThread whether "Reply in thread" makes sense here
 * @property {{count: number, by: string[], last: number, isWorking: boolean}|null} replies
 * @property {Record<string, (...values: any[]) => unknown>} on  reply, edit, remove, save, dismiss, press
 */

export function timeOf(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
}

export function avatar(user, className = '') {
  const initials = user.name.slice(0, user.is_bot ? 1 : 2);
  return h('span', { class: `avatar ${className}`.trim(), 'data-user': user.is_bot ? 'bot' : user.id,
    'aria-hidden': 'true' }, initials);
}

/** @param {any} message as the fake keeps it @param {Around} around */
export function messageElement(message, around) {
  const user = around.users.get(message.user) ?? { id: message.user, name: message.user, is_bot: false };
  const isOnlyMine = message.ephemeral !== undefined;
  const { is_bot: isBot } = user;
  const classes = ['message', isBot && 'from-bot', isOnlyMine && 'only-mine', message.is_streaming && 'streaming'];
  const body = h('div', { class: 'said' });
  if (isOnlyMine) body.append(h('p', { class: 'note' }, 'Only visible to you'));
  body.append(head(message, user));
  body.append(...(around.isEditing ? [editor(message, around)] : content(message, around)));
  if (around.replies) body.append(repliesLink(message, around));
  const article = h('article', { class: classes.filter(Boolean).join(' ') }, avatar(user), body);
  if (!around.isEditing && !message.is_deleted) article.append(tools(message, around, isOnlyMine));
  return article;
}

function head(message, user) {
  const line = h('p', { class: 'who' }, h('strong', {}, user.name));
  if (user.is_bot) line.append(h('span', { class: 'badge' }, 'APP'));
  line.append(h('time', { datetime: new Date(message.at * 1000).toISOString() }, timeOf(message.at)));
  return line;
}

function content(message, around) {
  if (message.is_deleted) return [h('p', { class: 'note' }, 'This message was deleted.')];
  const names = [...around.users.values()].map((one) => one.name);
  const dialect = message.ephemeral === undefined && message.user !== around.me
    && around.users.get(message.user)?.is_bot ? 'markdown' : 'mrkdwn';
  const done = [];
  const hasText = message.text && !message.blocks.some((one) => one.type === 'markdown' || one.type === 'section');
  if (hasText) done.push(h('div', { class: 'text' }, formatted(message.text, dialect, names)));
  for (const block of message.blocks) done.push(blockElement(block, message, names, around));
  for (const name of message.files) done.push(h('p', { class: 'file' }, icon('file'), name));
  if (message.is_edited) done.push(h('p', { class: 'note edited' }, '(edited)'));
  if (message.is_stopped) done.push(h('p', { class: 'note' }, 'Stopped'));
  return done;
}

// --- blocks ---

function blockElement(block, message, names, around) {
  const make = BLOCKS[block.type];
  return make ? make(block, message, names, around)
    : h('p', { class: 'note' }, `[${block.type}: this page does not show it]`);
}

const BLOCKS = {
  markdown: (block, _, names) => h('div', { class: 'text' }, formatted(block.text, 'markdown', names)),
  section: (block, _, names) => h('div', { class: 'text' }, formatted(block.text?.text ?? '', 'mrkdwn', names)),
  header: (block) => h('p', { class: 'text heading' }, block.text.text),
  divider: () => h('hr'),
  context: (block, _, names) => h('div', { class: 'note' },
    ...block.elements.map((one) => formatted(one.text ?? '', 'mrkdwn', names))),
  actions: (block, message, _, around) => h('div', { class: 'buttons' },
    ...block.elements.map((one) => pressable(one, message, around))),
  context_actions: (block, message, _, around) => h('div', { class: 'votes' },
    ...block.elements.flatMap((one) => votes(one, message, around))),
};

function pressable(element, message, around) {
  const onclick = () => around.on.press(message, element.action_id, '');
  return h('button', { type: 'button', class: `button ${element.style ?? ''}`.trim(), onclick }, element.text.text);
}

/** Thumbs, of which one may have been pressed. */
function votes(element, message, around) {
  if (element.type !== 'feedback_buttons') return [];
  return [['up', element.positive_button], ['down', element.negative_button]].map(([face, button]) => {
    const label = button.accessibility_label ?? button.text.text;
    const node = tool(face, label, () => around.on.press(message, element.action_id, button.value), 'tool vote');
    node.setAttribute('aria-pressed', String(message.chosen[element.action_id] === button.value));
    return node;
  });
}

// --- what may be done with it ---

function tools(message, around, isOnlyMine) {
  const bar = h('div', { class: 'tools' });
  if (isOnlyMine) {
    bar.append(tool('close', 'Dismiss message', () => around.on.dismiss(message)));
    return bar;
  }
  if (around.hasThread) bar.append(tool('reply', 'Reply in thread', () => around.on.reply(message)));
  if (message.user === around.me) {
    bar.append(tool('edit', 'Edit message', () => around.on.edit(message)),
      tool('trash', 'Delete message', () => around.on.remove(message)));
  }
  return bar;
}

function repliesLink(message, around) {
  const { count, by, last, isWorking } = around.replies;
  const words = isWorking && !count ? 'Myna is at work ...' : `${count} ${count === 1 ? 'reply' : 'replies'}`;
  const link = h('button', { type: 'button', class: `replies${isWorking ? ' working' : ''}`,
    onclick: () => around.on.reply(message) });
  link.append(...by.map((id) => avatar(around.users.get(id) ?? { id, name: id, is_bot: false }, 'small')),
    h('span', { class: 'count' }, words));
  if (count) link.append(h('span', { class: 'last' }, `last at ${timeOf(last)}`));
  return link;
}

function editor(message, around) {
  const area = h('textarea', { rows: '2', 'aria-label': 'Edit message' });
  area.value = message.text;
  const save = () => (area.value.trim() ? around.on.save(message, area.value) : around.on.edit(null));
  area.addEventListener('keydown', (event) => {
    if (event.isComposing) return;
    if (event.key === 'Enter' && !event.shiftKey) save();
    else if (event.key === 'Escape') around.on.edit(null);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  queueMicrotask(() => area.focus());
  const buttons = h('div', { class: 'buttons' },
    h('button', { type: 'button', class: 'button primary', onclick: save }, 'Save'),
    h('button', { type: 'button', class: 'button', onclick: () => around.on.edit(null) }, 'Cancel'));
  return h('div', { class: 'editor' }, area, buttons);
}
