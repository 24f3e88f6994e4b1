/** Work of minutes: what runs and how far it is, what waits, what came of it. */

import { h } from '/static/dom.js';
import { get, post } from './api.js';
import { phaseWords, t, word } from './strings.js';
import { ask, attempt, badge, button, card, chart, duration, empty, facts, link, live, number, progress,
  select, settings, table, when } from './ui.js';

const OPEN = ['queued', 'running', 'paused'];
// Where the things that a job tells of are shown.
const PAGES = { version: 'versions', dataset: 'datasets', evaluation: 'compare' };
/** Types of results that are told in one line. */
const TOLD = ['string', 'number', 'boolean'];
const TONES = { done: 'good', running: 'busy', refused: 'bad', failed: 'bad' };

export function jobsPage(context) {
  const [id] = context.params;
  return id ? onePage(id, context) : listPage(context);
}

function listPage({ may }) {
  const list = h('div');
  const refresh = live(list, () => get('jobs'), ({ jobs }) => draw(jobs), ({ jobs }) => jobs.some(isUnderWay));
  const start = h('div', { class: 'row' }, h('p', { class: 'muted grow' }, t('jobsMean')));
  if (may('trainer')) start.append(button(t('train'), () => train(refresh), 'primary'));
  return { node: h('div', {}, start, list), refresh };
}

function draw(jobs) {
  if (!jobs.length) return empty(t('noJobsYet'));
  const open = jobs.filter(({ state }) => OPEN.includes(state));
  const ended = jobs.filter(({ state }) => !OPEN.includes(state));
  const cards = open.map((job) => h('section', { class: 'card' }, jobProgress(job)));
  const parts = cards.length ? [h('div', { class: 'cards' }, ...cards)] : [];
  if (ended.length) parts.push(endedTable(ended));
  return parts;
}

function endedTable(jobs) {
  return table(word('page', 'jobs'), [
    { name: t('job'), cell: (job) => link('jobs', `${word('kind', job.kind)} ${shortId(job)}`, job.id) },
    { name: t('state'), cell: (job) => stateBadge(job) },
    { name: t('result'), cell: (job) => outcome(job) && h('span', { class: 'break' }, outcome(job)) },
    { name: t('who'), cell: (job) => job.createdBy },
    { name: t('ended'), cell: (job) => when(job.endedAt) },
  ], jobs);
}

function outcome({ error, result }) {
  if (error) return error;
  const told = Object.entries(result ?? {}).filter(([, value]) => TOLD.includes(typeof value));
  const said = (value) => (typeof value === 'number' ? shortNumber(value) : value);
  return told.slice(0, 4).map(([name, value]) => `${word('result', name)}: ${said(value)}`).join(', ');
}

function shortNumber(value) {
  return Number.isInteger(value) ? number(value) : number(value, 3);
}

function shortId(job) {
  return job.id.slice(0, 12);
}

function stateBadge({ state, wanted }) {
  const text = wanted !== 'run' && state === 'running' ? word('wanted', wanted) : word('state', state);
  return badge(text, TONES[state] ?? '');
}

/** Whether there will be news of a job soon. */
export function isUnderWay({ state }) {
  return state === 'running' || state === 'queued';
}

/** A job that has not ended: what it is at, and how far. */
export function jobProgress(job) {
  const told = job.progress ?? {};
  const share = told.steps ? Math.min(told.step / told.steps, 1) : null;
  const speed = told.tokens_per_second;
  const isKnown = (value) => value !== undefined && value !== null;
  const name = `${word('kind', job.kind)} ${shortId(job)}`;
  const head = h('div', { class: 'row' }, h('strong', { class: 'grow' }, link('jobs', name, job.id)), stateBadge(job));
  const bar = job.state === 'running' ? [progress(name, share)] : share ? [progress(name, share)] : [];
  return h('div', { class: 'stack' }, head, ...bar, facts([
    [t('phase'), told.phase ? phaseWords(told.phase) : null],
    [t('step'), told.steps ? `${number(told.step)} / ${number(told.steps)}` : null],
    [t('loss'), isKnown(told.loss) ? number(told.loss, 3) : null],
    [t('heldOutLoss'), isKnown(told.held_out_loss) ? number(told.held_out_loss, 3) : null],
    [t('tokensPerSecond'), speed ? number(speed, speed < 100 ? 1 : 0) : null],
    [t('timeLeft'), told.seconds_left ? duration(told.seconds_left) : null],
  ]));
}

function onePage(id, { may, setHeading }) {
  const node = h('div');
  const refresh = live(node, () => get(`jobs/${encodeURIComponent(id)}`), (found) => {
    setHeading(`${word('kind', found.job.kind)} ${shortId(found.job)}`);
    return drawOne(found, may, refresh);
  }, ({ job }) => isUnderWay(job));
  return { node, refresh };
}

function drawOne({ job, series, points }, may, refresh) {
  /** @type {Node[]} */
  const parts = [h('p', {}, link('jobs', t('allJobs')))];
  const isOpen = OPEN.includes(job.state);
  const change = may('trainer') && (isOpen || job.state === 'failed') ? [actions(job, refresh)] : [];
  if (isOpen) {
    parts.push(h('section', { class: 'card' }, jobProgress(job), ...change));
  } else {
    const ended = h('div', { class: 'row' }, stateBadge(job), h('p', { class: 'grow break' }, job.error ?? ''));
    parts.push(card('', ended, ...change));
  }
  parts.push(card(t('details'), facts([
    [t('who'), job.createdBy], [t('created'), when(job.createdAt)], [t('started'), when(job.startedAt)],
    [t('ended'), when(job.endedAt)],
    [t('attempts'), number(job.attempts)], [t('priority'), number(job.priority)], [t('device'), job.device],
    ...settings(job.settings),
  ])));
  if (series.length) {
    parts.push(card(t('curves'), chart(`jobs/${job.id}/chart`, t('curvesOf', { series: series.join(', ') }), points)));
  }
  if (job.result) parts.push(card(t('result'), resultFacts(job.result)));
  return parts;
}

function resultFacts(result) {
  return facts(Object.entries(result).map(([name, value]) => [word('result', name),
    PAGES[name] && typeof value === 'string'
      ? link(PAGES[name], value.length === 32 ? value.slice(0, 12) : value, value) : plain(value)]));
}

function plain(value) {
  if (typeof value === 'number') return shortNumber(value);
  if (typeof value === 'boolean') return value ? t('yes') : t('no');
  if (Array.isArray(value) && value.every((one) => typeof one === 'string')) {
    return h('ul', { class: 'reasons' }, ...value.map((one) => h('li', {}, one)));
  }
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

function actions(job, refresh) {
  const path = `jobs/${job.id}`;
  const act = async (what) => {
    if (await attempt(() => post(`${path}/${what}`), word('asked', what))) refresh();
  };
  const pause = button(t('pause'), () => act('pause'));
  const resume = button(t('resume'), () => act('resume'));
  const cancel = button(t('cancelJob'), async () => {
    const done = await ask({
      title: t('cancelTitle', { job: shortId(job) }), lines: [t('cancelMeans')], action: t('cancelJob'), danger: true,
      success: word('asked', 'cancel'), act: () => post(`${path}/cancel`),
    });
    if (done) refresh();
  }, 'danger-line');
  const fitting = { queued: [pause, cancel], running: [pause, cancel], paused: [resume, cancel], failed: [resume] };
  const shown = fitting[job.state] ?? [];
  return h('div', { class: 'actions' }, ...shown);
}

async function train(refresh) {
  const rows = h('input', { type: 'number', min: '1', inputmode: 'numeric' });
  const search = select([['', t('searchNone')],
    ...['2', '4', '8'].map((count) => [count, t('searchSome', { count })])], '');
  const name = h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', maxlength: '40' });
  const done = await ask({
    title: t('trainTitle'),
    lines: [t('trainMeans')],
    action: t('train'),
    fields: [
      { name: 'rows', label: t('rowsOption'), input: rows, hint: t('rowsHint') },
      { name: 'search', label: t('searchOption'), input: search },
      { name: 'name', label: t('nameOption'), input: name, hint: t('nameHint') },
    ],
    success: t('trainQueued'),
    act: (answer) => post('jobs/train', {
      ...(answer.rows ? { rows: Number(answer.rows) } : {}),
      ...(answer.search ? { search: Number(answer.search) } : {}),
      ...(answer.name ? { name: answer.name } : {}),
    }),
  });
  if (done) refresh();
}
