/** One person: what is kept of them, what they said about learning, and erasing them. */

import { h } from '/static/dom.js';
import { get, post } from './api.js';
import { t } from './strings.js';
import { ask, attempt, badge, button, card, facts, field, link, number } from './ui.js';

// All that somebody ever wrote is looked through.
const ERASE_TIMEOUT_MS = 300_000;

export function peoplePage() {
  const who = h('input', { type: 'search', autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false' });
  const found = h('div', { 'aria-live': 'polite' });
  const form = h('form', { class: 'card inline', novalidate: true }, field(t('whoIsIt'), who, t('whoHint')),
    h('button', { type: 'submit', class: 'button primary' }, t('find')));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    look();
  });

  async function look() {
    found.replaceChildren();
    await attempt(async () => {
      const person = await get(`people?who=${encodeURIComponent(who.value.trim())}`);
      found.replaceChildren(draw(person, erased));
    });
  }

  function erased(result) {
    const { proof, jobId, golden } = result.erased;
    const removed = Object.entries(proof.counts).filter(([, count]) => count);
    const counts = removed.map(([table, count]) => [table, number(count)]);
    found.replaceChildren(card(t('erasedTitle'), h('p', {}, t('erasedMeans')), facts(counts),
      ...(proof.versions.length ? [h('p', {}, t('erasedVersions', { names: proof.versions.join(', ') }))] : []),
      ...(jobId ? [h('p', {}, t('erasedJob'), ' ', link('jobs', jobId.slice(0, 12), jobId))] : []),
      ...(golden.length ? [h('p', { class: 'problem' }, t('erasedGolden', { ids: golden.join(', ') }))] : [])));
    who.value = '';
  }

  return { node: h('div', {}, form, found) };
}

function draw(person, erased) {
  const choice = { true: t('saidYes'), false: t('saidNo') }[person.choice] ?? t('saidNothing');
  const versions = person.versions.length
    ? h('span', {}, ...person.versions.flatMap((name, at) => [at ? ', ' : '', link('versions', name, name)]))
    : t('none');
  return card(person.names[0] ?? person.personId, facts([
    [t('knownAs'), person.names.join(', ')], [t('ownConversations'), number(person.own)],
    [t('sharedConversations'), number(person.shared)],
    [t('trainedVersions'), versions], [t('choice'), choice],
    [t('mayLearn'), person.mayLearn ? badge(t('yes'), 'good') : badge(t('no'), 'bad')],
  ]), h('div', { class: 'actions' }, button(t('erase'), () => erase(person, erased), 'danger')));
}

async function erase(person, erased) {
  const lines = [t('eraseMeans', { own: person.own, shared: person.shared })];
  if (person.versions.length) lines.push(t('eraseVersions', { names: person.versions.join(', ') }));
  const done = await ask({
    title: t('eraseTitle', { name: person.names[0] ?? person.personId }), lines, typed: person.personId, danger: true,
    action: t('erase'),
    success: t('erasedTitle'),
    act: () => post('people/erase', { person: person.personId, typed: person.personId }, ERASE_TIMEOUT_MS),
  });
  if (done) erased(done);
}
