/** Adding articles: the address of a page, or files that are sent one after the other. */

import { h } from '/static/dom.js';
import { audiences } from './articles_trying.js';
import { ApiError, post, upload } from './api.js';
import { t } from './strings.js';
import { badge, errorText, field, notify, progress, select } from './ui.js';

/**
 * @param {() => void} added runs after something was added
 * @returns {{node: Node, allow: (limits: {maxBytes: number, endings: string[]}) => void}}
 */
export function addForms(added) {
  const files = fileForm(added);
  return { node: h('div', { class: 'cards' }, pageForm(added), files.node), allow: files.allow };
}

function audienceField() {
  const input = select(audiences(), 'public');
  return { input, node: field(t('audience'), input, t('audienceHint')) };
}

/** A form that says beside its fields what is wrong. `send` throws an error with the words for it. */
function form(title, label, fields, first, send) {
  const problem = h('p', { class: 'problem', role: 'alert' });
  const go = h('button', { type: 'submit', class: 'button primary' }, label);
  const node = h('form', { class: 'card', novalidate: true }, h('h2', {}, title), ...fields, problem,
    h('div', { class: 'actions' }, go));
  const tell = (text) => {
    problem.textContent = text;
    if (text) first.setAttribute('aria-invalid', 'true');
    else first.removeAttribute('aria-invalid');
  };
  node.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (go.disabled) return;
    go.disabled = true;
    tell('');
    try {
      await send();
    } catch (error) {
      tell(errorText(error));
      first.focus();
    } finally {
      go.disabled = false;
    }
  });
  return { node, tell };
}

function pageForm(added) {
  const target = h('input', { type: 'url', autocomplete: 'off', spellcheck: 'false', maxlength: '2000' });
  const audience = audienceField();
  return form(t('addPage'), t('add'), [field(t('address'), target, t('addressHint')), audience.node], target,
    async () => {
    const address = target.value.trim();
    if (!address) throw new Error(t('addressMissing'));
    await post('sources', { target: address, audience: audience.input.value });
    target.value = '';
    notify(t('pageAdded', { address }));
    added();
  }).node;
}

function fileForm(added) {
  const chosen = h('input', { type: 'file', multiple: true });
  const audience = audienceField();
  const sent = h('div', { class: 'stack' });
  let limit = Infinity;
  const { node, tell } = form(t('uploadFiles'), t('upload'),
    [field(t('files'), chosen, t('filesHint')), audience.node, sent], chosen, async () => {
    const files = [...chosen.files ?? []];
    if (!files.length) throw new Error(t('filesMissing'));
    chosen.value = '';
    await sendAll(files, audience.input.value, limit, sent, added);
  });
  takeDrops(node, chosen, tell);
  return {
    node,
    allow({ maxBytes, endings }) {
      limit = maxBytes;
      chosen.accept = endings.join(',');
    },
  };
}

function takeDrops(node, chosen, tell) {
  const mark = (isOver) => node.classList.toggle('over', isOver);
  const hasFiles = (event) => event.dataTransfer?.types.includes('Files');
  node.addEventListener('dragover', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(true);
  });
  node.addEventListener('dragleave', ({ relatedTarget }) => {
    if (!(relatedTarget instanceof Node && node.contains(relatedTarget))) mark(false);
  });
  node.addEventListener('drop', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(false);
    const isFolder = [...event.dataTransfer.items].some((one) => one.webkitGetAsEntry?.()?.isDirectory);
    tell(isFolder ? t('folderDropped') : '');
    if (!isFolder) chosen.files = event.dataTransfer.files;
  });
}

/** One after the other: so a line tells which of them went wrong, and the server holds one at a time. */
async function sendAll(files, audience, limit, list, added) {
  const told = h('p', { role: 'status', class: 'muted' });
  const rows = files.map(({ name }) => ({ name, state: h('span', {}, badge(t('fileWaits'))),
    why: h('p', { class: 'problem', role: 'alert' }) }));
  list.replaceChildren(told, h('div', { class: 'sent', tabindex: '0', role: 'region', 'aria-label': t('files') },
    h('ul', { class: 'plain' }, ...rows.map(({ name, state, why }) => h('li', {},
      h('div', { class: 'row' }, h('span', { class: 'grow break' }, name), state), why)))));
  let count = 0;
  for (const [place, file] of files.entries()) {
    told.textContent = t('sendingFiles', { name: file.name });
    if (await sendOne(file, audience, limit, rows[place])) {
      count += 1;
      added();
    }
  }
  told.textContent = t('filesSent', { sent: count, all: files.length });
}

async function sendOne(file, audience, limit, { state, why }) {
  const bar = progress(t('sendingFiles', { name: file.name }), 0);
  state.replaceChildren(bar);
  try {
    if (file.size > limit) throw new Error(t('fileTooLarge', { mb: Math.floor(limit / 2 ** 20) }));
    const query = new URLSearchParams({ name: file.name, audience });
    await upload(`sources/upload?${query}`, file, (share) => { bar.value = share; });
    state.replaceChildren(badge(t('fileSent'), 'good'));
    return true;
  } catch (error) {
    state.replaceChildren(badge(t('fileFailed'), 'bad'));
    why.textContent = await explained(error, file);
    return false;
  }
}

/** A file that was moved or changed since it was chosen fails as if there were no server. */
async function explained(error, file) {
  if (!(error instanceof ApiError) || error.status !== 0) return errorText(error);
  try {
    await file.slice(0, 1).arrayBuffer();
    return errorText(error);
  } catch {
    return t('fileUnreadable');
  }
}
