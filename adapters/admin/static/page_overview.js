/** What answers now, what is being done, what waits, and what was done last. */

import { h } from '/static/dom.js';
import { get } from './api.js';
import { isUnderWay, jobProgress } from './page_jobs.js';
import { auditTable } from './page_audit.js';
import { importHint } from './page_datasets.js';
import { trialFacts } from './page_versions.js';
import { t, word } from './strings.js';
import { badge, card, chart, empty, facts, link, live, percent, when } from './ui.js';

export function overviewPage({ may }) {
  const node = h('div');
  /** @param {any} found */
  const isBusy = ({ jobs, release }) => jobs.some(isUnderWay) || release.canary;
  return { node, refresh: live(node, () => get('overview'), (found) => draw(found, may), isBusy) };
}

function draw({ base, release, trial, jobs, waiting, votes, rows }, may) {
  const cards = [answersCard(base, release), trialCard(release, trial)];
  if (waiting !== null) cards.push(waitingCard(waiting));
  return [
    h('div', { class: 'cards' }, ...cards),
    jobsCard(jobs),
    ...(may('trainer') && !release.champion ? [importHint()] : []),
    card(t('votesTitle'), votes ? chart('votes/chart', t('votesChart'), votes)
      : h('p', { class: 'muted' }, t('noVotes'))),
    card(t('lastDone'), rows.length ? auditTable(rows) : empty(t('nothingDone'))),
  ];
}

function answersCard(base, { champion, previous }) {
  const name = champion ? link('versions', champion.name, champion.name) : t('baseModel');
  return card(t('answersNow'), h('p', { class: 'big' }, name),
    facts([[t('base'), base], [t('answersSince'), champion ? when(champion.createdAt) : null],
      [t('previous'), previous?.name]]));
}

function trialCard({ challenger, canary }, trial) {
  if (!canary) return card(t('trial'), h('p', { class: 'muted' }, t('noTrial')));
  return card(t('trial'), h('p', { class: 'big' }, link('versions', challenger.name, challenger.name), ' ',
    badge(percent(canary.share), 'busy')),
    trialFacts(trial), facts([[t('since'), when(canary.createdAt)]]));
}

function jobsCard(jobs) {
  if (!jobs.length) return card(word('page', 'jobs'), h('p', { class: 'muted' }, t('noJobs')));
  return card(word('page', 'jobs'), ...jobs.slice(0, 4).map((job) => jobProgress(job)));
}

function waitingCard(waiting) {
  const text = waiting >= 100 ? '100+' : String(waiting);
  return card(word('page', 'feedback'), h('p', { class: 'big' }, text),
    h('p', { class: 'muted' }, waiting ? t('repliesWait') : t('nothingWaits')),
    h('p', {}, link('feedback', t('lookAtFeedback'))));
}
