/** Trained versions: which answers, how each was judged, what it was made of, and changing all that. */

import { h, parseSanitised } from '/static/dom.js';
import { get, post } from './api.js';
import { t, word } from './strings.js';
import { ask, badge, button, card, chart, empty, facts, link, live, number, percent, select, settings,
  table, when } from './ui.js';

const OUTCOME_TONES = { harm: 'bad', promoted: 'good' };

export function versionsPage(context) {
  const [name] = context.params;
  return name ? onePage(name, context) : listPage(context);
}

// --- all of them ---

function listPage({ may }) {
  const node = h('div');
  const refresh = live(node, () => get('versions'), (found) => draw(found, may, refresh),
    ({ release }) => release.canary);
  return { node, refresh };
}

function draw(found, may, refresh) {
  const { versions, release, rollback, trial, canaries } = found;
  const parts = [releaseCard(release, rollback, trial, may, refresh)];
  parts.push(versions.length ? versionTable(versions, release) : empty(t('noVersions')));
  const ended = canaries.filter(({ endedAt }) => endedAt);
  if (ended.length) parts.push(card(t('pastTrials'), trialTable(ended, versions)));
  return parts;
}

function releaseCard(release, back, trial, may, refresh) {
  const { champion, previous, challenger, canary } = release;
  const buttons = [];
  if (may('trainer') && canary) buttons.push(button(t('stopTrial'), () => stopTrial(release, refresh), 'danger-line'));
  if (may('trainer') && (champion || previous)) {
    if (back.fault) buttons.push(h('p', { class: 'muted' }, t('noRollback', { why: faultText(back.fault) })));
    else buttons.push(button(t('rollback'), () => rollback(release, back.to, refresh), 'danger-line'));
  }
  return card(t('answersNow'), h('p', { class: 'big' }, nameOf(champion)),
    facts([[t('previous'), previous ? nameOf(previous) : champion ? t('baseModel') : null],
      [t('challenger'), challenger ? h('span', {}, nameOf(challenger), ' ', badge(percent(canary.share), 'busy'))
        : null]]),
    ...(canary ? [trialFacts(trial), ...railTable(trial), ...trialChart(canary, trial)] : []),
    ...(buttons.length ? [h('div', { class: 'actions' }, ...buttons)] : []));
}

function nameOf(version) {
  return version ? link('versions', version.name, version.name) : t('baseModel');
}

/** What can be said of a trial so far. */
export function trialFacts(trial) {
  if (!trial) return h('p', { class: 'muted' }, t('trialUnknown'));
  const tone = { harm: 'bad', ready: 'good' }[trial.verdict] ?? '';
  return h('p', {}, badge(word('verdict', trial.verdict), tone), ' ', (trial.because ?? '').replaceAll('_', ' '));
}

/** How conversations ended on both sides, and the evidence of harm. */
function railTable(trial) {
  const rails = Object.entries(trial?.rails ?? {});
  if (!rails.length) return [];
  const ended = (bad, good) => `${number(bad)} / ${number(bad + good)}`;
  return [table(t('rails'), [
    { name: t('rails'), cell: ([name]) => word('rail', name) },
    { name: t('champion'), cell: ([, { counts }]) => ended(counts.champion_bad, counts.champion_good), kind: 'number' },
    {
      name: t('challenger'), kind: 'number',
      cell: ([, { counts }]) => ended(counts.challenger_bad, counts.challenger_good),
    },
    {
      name: t('evidence', { threshold: number(trial.threshold) }), kind: 'number',
      cell: ([, { harm }]) => number(harm, 2),
    },
  ], rails)];
}

/** How the trial went by the guard rail with the most evidence of harm. */
function trialChart(canary, trial) {
  const known = ({ counts }) => Object.values(counts).reduce((total, one) => total + one, 0);
  const rails = Object.entries(trial?.rails ?? {}).filter(([, rail]) => known(rail));
  rails.sort(([, one], [, other]) => other.harm - one.harm);
  if (!rails.length) return [];
  const [name, rail] = rails[0];
  return [chart(`canaries/${canary.id}/${name}/chart`, t('trialChart'), `${name} ${known(rail)}`)];
}

function versionTable(versions, release) {
  return table(word('page', 'versions'), [
    { name: t('version'), cell: ({ version }) => h('span', {}, link('versions', version.name, version.name)) },
    { name: t('state'), cell: ({ version }) => stateOf(version, release) },
    { name: t('gate'), cell: ({ passed, fault }) => gateBadge(passed, fault) },
    { name: t('base'), cell: ({ version }) => h('span', { class: 'break' }, version.base) },
    { name: t('who'), cell: ({ version }) => version.createdBy },
    { name: t('created'), cell: ({ version }) => when(version.createdAt) },
  ], versions);
}

function stateOf(version, { champion, previous, challenger }) {
  if (version.taintedAt) return badge(t('tainted'), 'bad');
  if (version.retiredAt) return badge(t('retired'));
  if (champion?.id === version.id) return badge(t('champion'), 'mark');
  if (challenger?.id === version.id) return badge(t('challenger'), 'busy');
  if (previous?.id === version.id) return badge(t('previous'));
  return '';
}

/**
 * @param {boolean|null|undefined} passed the last verdict
 * @param {{kind: string}|null} [fault] what keeps the version from being promoted now
 */
function gateBadge(passed, fault) {
  if (passed === null || passed === undefined) return badge(t('notJudged'));
  if (fault?.kind === 'judged_beside_another') return badge(t('passedElsewhere'));
  return passed ? badge(t('passed'), 'good') : badge(t('notPassed'), 'bad');
}

function trialTable(canaries, versions) {
  const names = new Map(versions.map(({ version }) => [version.id, version.name]));
  return table(t('pastTrials'), [
    { name: t('version'), cell: (one) => names.get(one.challengerId) ?? '' },
    { name: t('share'), cell: (one) => percent(one.share), kind: 'number' },
    { name: t('outcome'), cell: ({ outcome }) => badge(word('outcome', outcome), OUTCOME_TONES[outcome] ?? '') },
    { name: t('who'), cell: (one) => one.createdBy },
    { name: t('ended'), cell: (one) => when(one.endedAt) },
    { name: t('chart'), cell: (one) => thumbsChart(one.id) },
  ], canaries);
}

function thumbsChart(id) {
  const href = `/admin/api/canaries/${id}/thumbs_down/chart`;
  return h('a', { href, target: '_blank', rel: 'noopener' }, word('rail', 'thumbs_down'));
}

// --- one of them ---

function onePage(name, { may, setHeading }) {
  const node = h('div');
  const refresh = live(node, () => get(`versions/${encodeURIComponent(name)}`), (found) => {
    setHeading(found.version.name);
    return drawOne(found, may, refresh);
  });
  return { node, refresh };
}

function drawOne({ version, fault, release, evaluation, examples, conversations, cardHtml }, may, refresh) {
  const head = h('div', { class: 'row' }, stateOf(version, release), gateBadge(evaluation?.passed, fault),
    h('span', { class: 'grow' }), h('div', { class: 'actions' }, ...actions(version, release, fault, may, refresh)));
  /** @type {Node[]} */
  const parts = [h('p', {}, link('versions', t('allVersions'))), head];
  if (version.retiredAt) parts.push(h('p', { class: 'problem' }, `${t('retired')}: ${version.retiredBecause ?? ''}`));
  if (evaluation) parts.push(...evaluationCards(evaluation));
  parts.push(card(t('lineage'), facts([
    [t('base'), version.base], [t('dataset'), link('datasets', version.datasetId.slice(0, 12), version.datasetId)],
    [t('examples'), number(examples)], [t('conversations'), number(conversations)],
    [t('job'), link('jobs', version.jobId.slice(0, 12), version.jobId)],
    [t('who'), version.createdBy], [t('created'), when(version.createdAt)], [t('codeVersion'), version.codeVersion],
    [t('weightsHash'), h('code', { class: 'break' }, version.weightsSha256.slice(0, 16))],
    [t('baseHash'), h('code', { class: 'break' }, version.baseSha256.slice(0, 16))],
  ])));
  parts.push(card(t('settings'), facts(settings(version.settings))));
  if (cardHtml) {
    parts.push(h('details', { class: 'card', 'data-key': 'card' },
      h('summary', { 'data-key': 'card-summary' }, t('modelCard')),
      h('div', { class: 'prose' }, parseSanitised(cardHtml) ?? cardHtml)));
  }
  return parts;
}

function evaluationCards(evaluation) {
  const { report, reasons } = evaluation;
  const about = facts([[t('created'), when(evaluation.createdAt)], [t('who'), evaluation.createdBy]]);
  const suites = Object.entries(report.suites ?? {}).map(([name, suite]) => card(
    t('suiteTitle', { suite: word('suite', name), rows: number(suite.rows) }), measureTable(suite.measures)));
  return [
    card(t('verdict'), gateBadge(evaluation.passed),
      h('ul', { class: 'reasons' }, ...reasons.map((one) => h('li', {}, one))), about,
      h('p', {}, link('compare', t('judgeAnswers'), evaluation.id))),
    card(t('beforeAfter'), chart(`evaluations/${evaluation.id}/chart`, t('beforeAfterChart'),
      evaluation.reasons.length)),
    ...suites,
  ];
}

function measureTable(measures) {
  const rows = Object.entries(measures);
  return table(t('measures'), [
    { name: t('measure'), cell: ([name]) => word('measure', name) },
    { name: t('base'), cell: ([, one]) => interval(one.values.base), kind: 'number' },
    { name: t('champion'), cell: ([, one]) => interval(one.values.champion), kind: 'number' },
    { name: t('candidate'), cell: ([, one]) => interval(one.values.candidate), kind: 'number' },
    { name: t('difference'), cell: ([, one]) => interval(one.difference, true), kind: 'number' },
  ], rows);
}

function interval(one, signed = false) {
  if (!one || one.mean === null) return '–';
  const sign = signed && one.mean > 0 ? '+' : '';
  return h('span', { title: `${number(one.low, 4)} … ${number(one.high, 4)}` }, `${sign}${number(one.mean, 3)} `,
    h('small', { class: 'muted' }, `[${number(one.low, 3)}, ${number(one.high, 3)}]`));
}

// --- changing it ---

function actions(version, release, fault, may, refresh) {
  const mayAnswer = !fault || fault.needsReason;
  const isUsable = !version.retiredAt && !version.taintedAt;
  const answers = release.champion?.id === version.id;
  const isTried = release.challenger?.id === version.id;
  const shown = [];
  if (may('trainer') && isUsable) shown.push(button(t('evaluate'), () => evaluate(version)));
  if (may('trainer') && isUsable && !answers && !isTried) {
    shown.push(button(t('retire'), () => retire(version, refresh), 'danger-line'));
  }
  if (may('admin') && mayAnswer && !isTried) {
    shown.push(button(t('tryIt'), () => tryIt(version, release, fault, refresh)));
  }
  if (may('admin') && mayAnswer) {
    shown.push(button(t('promote'), () => promote(version, release, fault, refresh), 'primary'));
  }
  return shown;
}

const plainName = (version) => version?.name ?? t('baseModel');

function reasonField(needed) {
  const input = h('textarea', { rows: '3' });
  return { name: 'reason', label: needed ? t('reason') : t('reasonOptional'), input, needed, hint: t('reasonHint') };
}

/** What the server says against a change. */
function faultText({ kind, version, champion, because }) {
  return word('fault', kind, { version, champion: champion === 'base' ? t('baseModel') : champion, because });
}

/** What the gate refuses needs a reason, which overrides it. */
function gateQuestion(fault) {
  if (!fault) return { lines: [], fields: [], danger: false };
  return { lines: [`${faultText(fault)} ${t('gateNeedsReason')}`], fields: [reasonField(true)], danger: true };
}

// `at` is the release that was seen: should it have changed meanwhile, nothing is done.

async function promote(version, { champion, challenger, number: at }, fault, refresh) {
  const gate = gateQuestion(fault);
  const lines = [t('promoteMeans', { name: version.name, before: plainName(champion) })];
  if (challenger) lines.push(t('trialEnds', { name: challenger.name }));
  await ask({
    title: t('promoteTitle', { name: version.name }), lines: [...lines, ...gate.lines], fields: gate.fields,
    danger: gate.danger,
    action: t('promote'), success: t('promoted', { name: version.name }),
    act: ({ reason = '' }) => post(`versions/${version.name}/promote`, { at, reason }),
  });
  refresh();
}

async function tryIt(version, { champion, challenger, number: at }, fault, refresh) {
  const gate = gateQuestion(fault);
  const share = select([['0.05', '5 %'], ['0.2', '20 %'], ['0.5', '50 %']], '0.05');
  const lines = [t('tryMeans', { name: version.name, champion: plainName(champion) })];
  if (challenger) lines.push(t('trialEnds', { name: challenger.name }));
  await ask({
    title: t('tryTitle', { name: version.name }), lines: [...lines, ...gate.lines], danger: gate.danger,
    action: t('tryIt'),
    fields: [{ name: 'share', label: t('shareOption'), input: share }, ...gate.fields],
    success: t('tried', { name: version.name }),
    act: ({ reason = '' }) => post(`versions/${version.name}/canary`, { at, share: Number(share.value), reason }),
  });
  refresh();
}

async function retire(version, refresh) {
  const done = await ask({
    title: t('retireTitle', { name: version.name }), lines: [t('retireMeans')], fields: [reasonField(true)],
    danger: true, action: t('retire'),
    success: t('saved'), act: (answer) => post(`versions/${version.name}/retire`, answer),
  });
  if (done) refresh();
}

async function rollback({ champion, challenger, number: at }, to, refresh) {
  const lines = [t('rollbackMeans', { name: plainName(to), before: plainName(champion) })];
  if (challenger) lines.push(t('trialEnds', { name: challenger.name }));
  const done = await ask({
    title: t('rollbackTitle'), lines, fields: [reasonField(true)], danger: true, action: t('rollback'),
    success: t('rolledBack', { name: plainName(to) }),
    act: (answer) => post('release/rollback', { at, ...answer }),
  });
  if (done) refresh();
}

async function stopTrial({ challenger, champion, number: at }, refresh) {
  const done = await ask({
    title: t('stopTrialTitle', { name: challenger.name }), lines: [t('stopTrialMeans', { name: plainName(champion) })],
    fields: [reasonField(false)], danger: true, action: t('stopTrial'),
    success: t('saved'), act: (answer) => post('release/stop-canary', { at, ...answer }),
  });
  if (done) refresh();
}

function evaluate(version) {
  return ask({
    title: t('evaluateTitle', { name: version.name }), lines: [t('evaluateMeans')], action: t('evaluate'),
    success: t('evaluateQueued'), act: () => post(`versions/${version.name}/evaluate`),
  });
}
