/** Colours and sizes, for the page and for every shadow root. */
export const tokens = `
:root, :host {
  color-scheme: light dark;
  --myna-bg: #fbfaf7;
  --myna-surface: #ffffff;
  --myna-sunken: #f2f0ea;
  --myna-line: #e2dfd6;
  --myna-line-strong: #8b8a83;
  --myna-ink: #1d2526;
  --myna-muted: #5d6666;
  --myna-brand: #0e4d51;
  --myna-accent: var(--myna-color, #0d5c61);
  --myna-on-accent: var(--myna-on-color, #ffffff);
  --myna-own: #e0eeec;
  --myna-link: #0b6168;
  --myna-warn: #8a3b12;
  --myna-warn-bg: #fdf1e6;
  --myna-focus: #0b7a83;
  --myna-shadow: 0 1px 2px rgb(20 40 42 / .06), 0 6px 24px rgb(20 40 42 / .08);
  --myna-font: system-ui, -apple-system, "Segoe UI", Roboto, "PingFang SC", "Hiragino Sans GB",
    "Microsoft YaHei", "Noto Sans SC", "Noto Sans CJK SC", sans-serif;
  --myna-mono: ui-monospace, "SF Mono", "Cascadia Code", Menlo, Consolas, "Noto Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root, :host {
    --myna-bg: #121819;
    --myna-surface: #1b2324;
    --myna-sunken: #0d1213;
    --myna-line: #2c3738;
    --myna-line-strong: #7c8a8a;
    --myna-ink: #e7ecea;
    --myna-muted: #a0acab;
    --myna-brand: #7fcac5;
    --myna-accent: var(--myna-color, #7fcac5);
    --myna-on-accent: var(--myna-on-color, #062426);
    --myna-own: #20393a;
    --myna-link: #8ad3ce;
    --myna-warn: #f4b183;
    --myna-warn-bg: #33241a;
    --myna-focus: #8ad3ce;
    --myna-shadow: 0 1px 2px rgb(0 0 0 / .3), 0 8px 28px rgb(0 0 0 / .4);
  }
}
`;

/** Rules that every surface shares. */
export const base = `
*, *::before, *::after { box-sizing: border-box; }
[hidden] { display: none !important; }
button { font: inherit; color: inherit; }
.icon {
  width: 20px; height: 20px; flex: none; display: block;
  fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linecap: round; stroke-linejoin: round;
}
.logo { display: block; width: 32px; height: 32px; color: var(--myna-brand); }
.tool {
  display: grid; place-items: center; width: 40px; height: 40px; padding: 0; flex: none;
  border: 0; border-radius: 12px; background: transparent; color: var(--myna-muted); cursor: pointer;
  transition: background-color .12s, color .12s;
}
@media (hover: hover) { .tool:hover { background: var(--myna-sunken); color: var(--myna-ink); } }
:focus-visible { outline: 2px solid var(--myna-focus); outline-offset: 2px; }
.sr {
  position: absolute; width: 1px; height: 1px; margin: -1px; padding: 0; border: 0;
  overflow: hidden; clip-path: inset(50%); white-space: nowrap;
}
@media (prefers-reduced-motion: reduce) {
  *, *::before, *::after { animation: none !important; transition: none !important; scroll-behavior: auto !important; }
}
`;

/** The privacy menu. The page's bar and a panel's header, which it hangs from, are its place to be. */
export const menu = `
.privacy { flex: none; }
.menu {
  position: absolute; z-index: 2; inset: calc(100% - 2px) 8px auto auto; width: max-content;
  max-width: min(380px, calc(100% - 16px));
  padding: 8px 16px; border-radius: 16px; background: var(--myna-surface); color: var(--myna-ink); font-size: 15px;
  line-height: 1.4;
  box-shadow: var(--myna-shadow), inset 0 0 0 1px var(--myna-line);
}
.menu label {
  display: flex; align-items: center; justify-content: space-between; gap: 16px; min-height: 48px; padding-block: 4px;
  cursor: pointer;
}
.menu label:has(:disabled) { color: var(--myna-muted); cursor: default; }
.menu p { margin: 4px 0 6px; color: var(--myna-muted); font-size: 13px; }
.menu .problem:empty { display: none; }
.menu input {
  appearance: none; position: relative; flex: none; width: 44px; height: 26px; margin: 0; border-radius: 13px;
  cursor: inherit;
  background: var(--myna-line-strong); transition: background-color .12s;
}
.menu input::before {
  content: ""; position: absolute; inset: 3px auto auto 3px; width: 20px; height: 20px; border-radius: 50%;
  background: var(--myna-surface); transition: transform .12s;
}
.menu input:checked { background: var(--myna-accent); }
.menu input:checked::before { transform: translateX(18px); }
.menu input:disabled { opacity: .5; }
@media (forced-colors: active) {
  .menu input { border: 1px solid; }
  .menu input:checked::before { background: Highlight; }
}
`;

/** The chat element. */
export const chat = `
:host { display: block; height: 100%; min-height: 0; }
:host([hidden]) { display: none; }
.chat {
  --column: 46rem; --gutter: 16px;
  display: flex; flex-direction: column; height: 100%; position: relative; overflow: hidden;
  background: var(--myna-bg); color: var(--myna-ink);
  font: 400 16px/1.6 var(--myna-font); text-align: start; letter-spacing: normal;
}
.panel { --gutter: 14px; font-size: 15px; }
.header {
  position: relative; display: flex; align-items: center; gap: 10px; flex: none;
  padding: 8px 8px 8px 16px; border-bottom: 1px solid var(--myna-line); background: var(--myna-surface);
}
.header h2 {
  flex: 1; min-width: 0; margin: 0; font-size: 16px; font-weight: 650;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
}
.header .logo { width: 28px; height: 28px; }

.transcript { flex: 1; min-height: 0; position: relative; }
.log { height: 100%; overflow-y: auto; overscroll-behavior: contain; scrollbar-gutter: stable; scrollbar-width: thin; }
.log:focus-visible { outline-offset: -3px; border-radius: 6px; }
.list, .typing { max-width: var(--column); margin-inline: auto; padding-inline: var(--gutter); }
.list { padding-block: 24px 12px; }
.panel .list { padding-block-start: 16px; }

.empty {
  position: absolute; inset: 0; display: flex; flex-direction: column; align-items: center; justify-content: center;
  gap: 18px; padding: 24px; text-align: center; pointer-events: none;
}
.empty .logo { width: 72px; height: 72px; animation: land .5s cubic-bezier(.2, .9, .3, 1.2) both; }
.panel .empty .logo { width: 56px; height: 56px; }
.greeting {
  margin: 0; max-width: 28ch; font-size: clamp(20px, 4.4vw, 27px); line-height: 1.3; font-weight: 600;
  letter-spacing: -.012em; text-wrap: balance; overflow-wrap: anywhere;
}
.panel .greeting { font-size: 19px; }

.row { display: flex; gap: 12px; margin-block-end: 10px; }
.main { min-width: 0; display: flex; flex-direction: column; }
.bubble { overflow-wrap: anywhere; min-width: 0; }
.user { justify-content: flex-end; }
.user { margin-block-end: 22px; }
.user .main { flex-direction: row-reverse; align-items: center; gap: 4px; max-width: min(100%, 40rem); }
.user .bubble {
  padding: 9px 15px; border-radius: 20px 20px 6px 20px; background: var(--myna-own); white-space: pre-wrap;
}
.user[data-pending] .bubble { opacity: .72; }
.assistant .main { flex: 1; }
.avatar {
  flex: none; display: grid; place-items: center; width: 32px; height: 32px; margin-block-start: -1px;
  border-radius: 50%; background: var(--myna-surface); box-shadow: inset 0 0 0 1px var(--myna-line);
}
.avatar .logo { width: 22px; height: 22px; }
.panel .avatar { width: 28px; height: 28px; }
.panel .avatar .logo { width: 19px; height: 19px; }
.panel .row { gap: 9px; }
.row.assistant[data-live] .avatar {
  box-shadow: inset 0 0 0 1px var(--myna-line), 0 0 0 3px color-mix(in srgb, #f4a924 28%, transparent);
}

.tail { margin: 0; white-space: pre-wrap; }
.tail.fenced {
  padding: 12px 14px; border: 1px solid var(--myna-line); border-radius: 12px;
  background: var(--myna-sunken); font: .9em/1.5 var(--myna-mono);
}
.rendered:not(:empty) + .tail { margin-block-start: .75em; }
[data-live] .tail::after {
  content: ""; display: inline-block; width: 7px; height: 1.05em; margin-inline-start: 3px; vertical-align: -.15em;
  border-radius: 2px; background: #e39a16; animation: blink 1.1s steps(2, jump-none) infinite;
}

.rendered > * { margin-block: 0 .75em; }
.rendered > :last-child { margin-block-end: 0; }
.rendered :is(p, li, h1, h2, h3, h4, h5, h6, td, th) { unicode-bidi: plaintext; text-align: start; }
.rendered :is(h1, h2, h3, h4, h5, h6) { margin-block: 1.1em .45em; line-height: 1.3; font-weight: 650; }
.rendered :is(h1, h2) { font-size: 1.2em; }
.rendered h3 { font-size: 1.08em; }
.rendered :is(h4, h5, h6) { font-size: 1em; }
.rendered > :first-child { margin-block-start: 0; }
.rendered :is(ul, ol) { padding-inline-start: 1.5em; }
.rendered li { margin-block: .2em; }
.rendered li > p { margin-block: .35em; }
.rendered li::marker { color: var(--myna-muted); }
.rendered a { color: var(--myna-link); text-underline-offset: 2px; border-radius: 3px; }
.rendered blockquote {
  margin-inline: 0; padding-inline-start: 14px; border-inline-start: 3px solid var(--myna-line-strong);
  color: var(--myna-muted);
}
.rendered hr { border: 0; border-block-start: 1px solid var(--myna-line); }
.rendered code { font: .9em/1.5 var(--myna-mono); }
.rendered :not(pre) > code { padding: .12em .36em; border-radius: 6px; background: var(--myna-sunken); }
.code {
  position: relative; border: 1px solid var(--myna-line); border-radius: 12px; background: var(--myna-sunken);
  overflow: hidden;
}
.code pre { margin: 0; padding: 12px 52px 12px 14px; overflow-x: auto; overflow-wrap: normal; scrollbar-width: thin; }
.code pre:focus-visible { outline-offset: -3px; border-radius: 12px; }
.code .tool { position: absolute; inset: 3px 3px auto auto; background: var(--myna-sunken); }
.code .tool:hover { background: var(--myna-line); }
.scroll { overflow-x: auto; }
.rendered table { border-collapse: collapse; font-size: .94em; overflow-wrap: normal; }
.rendered :is(td, th) { padding: 6px 12px; border-block-end: 1px solid var(--myna-line); }
.rendered th { font-weight: 650; }

.rendered a.cite { font-size: .78em; text-decoration: none; vertical-align: .18em; }
.rendered a.cite:hover, .rendered a.cite:focus-visible { text-decoration: underline; }
.sources {
  display: flex; flex-direction: column; gap: 2px; margin: 8px 0 0; padding: 0; list-style: none; font-size: .875em;
}
.sources li { overflow-wrap: anywhere; }
.sources .number { color: var(--myna-muted); font-variant-numeric: tabular-nums; }
.sources a { color: var(--myna-link); text-underline-offset: 2px; border-radius: 3px; }
.note {
  display: flex; align-items: center; gap: 6px; margin-block-start: 8px; color: var(--myna-muted); font-size: .875em;
}
.note .link { flex: none; }
.note .icon { width: 17px; height: 17px; }
[data-state="stopped"] .note .icon { fill: currentColor; width: 14px; height: 14px; }
[data-state="failed"] .note, [data-state="refused"] .note {
  align-self: flex-start; padding: 3px 14px; min-height: 40px; border-radius: 12px; background: var(--myna-warn-bg);
  color: var(--myna-warn);
}
[data-state="refused"] .note { background: var(--myna-sunken); color: var(--myna-muted); }
[data-state="failed"] .bubble, [data-state="refused"] .bubble { color: var(--myna-muted); }
.bubble[hidden] + .note { margin-block-start: 0; }
.link {
  min-height: 40px; padding: 0 10px; border: 0; border-radius: 10px; background: none; color: inherit;
  font-weight: 650; text-decoration: underline; text-underline-offset: 3px; cursor: pointer;
}

.actions { display: flex; flex-wrap: wrap; align-items: center; min-height: 40px; margin-inline-start: -10px; }
.user .actions { flex: none; justify-content: flex-end; min-width: 40px; min-height: 0; margin: 0; }
.actions .icon { width: 18px; height: 18px; }
.thumb[aria-pressed="true"] { color: var(--myna-accent); }
.thumb[aria-pressed="true"] .icon { fill: color-mix(in srgb, currentColor 28%, transparent); }
.thanks { padding-inline: 8px; color: var(--myna-muted); font-size: 13.5px; }
.actions .more { font-size: 13.5px; font-weight: 400; color: var(--myna-muted); }
.card {
  display: grid; gap: 12px; max-width: 34rem; margin-block: 4px 8px; padding: 14px 16px; border-radius: 16px;
  background: var(--myna-surface); box-shadow: inset 0 0 0 1px var(--myna-line);
}
.card label { display: grid; gap: 4px; font-size: .9em; font-weight: 600; }
.card textarea {
  width: 100%; padding: 8px 12px; border: 1px solid var(--myna-line-strong); border-radius: 12px; resize: vertical;
  background: var(--myna-bg); color: inherit; font: 400 16px/1.45 var(--myna-font);
}
.card textarea:focus-visible { outline-offset: 0; }
.card-buttons { display: flex; align-items: center; gap: 8px; }
.primary {
  min-height: 40px; padding: 0 18px; border: 0; border-radius: 12px; background: var(--myna-accent);
  color: var(--myna-on-accent);
  font-weight: 650; cursor: pointer;
}
.time { padding-inline: 8px; color: var(--myna-muted); font-size: 12.5px; white-space: nowrap; }
@media (hover: hover) {
  .actions > * { opacity: 0; transition: opacity .12s; }
  .row:hover .actions > *, .row:focus-within .actions > *, .row[data-last] .actions > .tool,
  .actions > .thumb[aria-pressed="true"], .actions > .thanks, .actions > .more { opacity: 1; }
}
@media (hover: none) { .user .time { display: none; } }

.typing { margin-block-start: -12px; }
.dots { display: inline-flex; gap: 5px; padding-block: 9px; }
.dots i {
  width: 7px; height: 7px; border-radius: 50%; background: var(--myna-line-strong);
  animation: hop 1.2s infinite ease-in-out;
}
.dots i:nth-child(2) { animation-delay: .15s; }
.dots i:nth-child(3) { animation-delay: .3s; }

.jump {
  position: absolute; inset-block-end: 10px; inset-inline-start: calc(50% - 20px); border-radius: 50%;
  background: var(--myna-surface); color: var(--myna-ink);
  box-shadow: var(--myna-shadow), inset 0 0 0 1px var(--myna-line);
}

.notice {
  display: flex; align-items: center; gap: 10px; max-width: calc(var(--column) - 2 * var(--gutter));
  width: calc(100% - 2 * var(--gutter)); margin: 0 auto 8px; padding: 4px 4px 4px 14px; min-height: 48px;
  border-radius: 14px; background: var(--myna-warn-bg); color: var(--myna-warn); font-size: 14.5px; line-height: 1.4;
}
[role="alert"]:empty { margin: 0; }
.notice p { flex: 1; margin: 4px 0; overflow-wrap: anywhere; }
.notice .tool { color: inherit; }
.notice .tool:hover { background: color-mix(in srgb, currentColor 12%, transparent); }

.composer {
  flex: none; width: 100%; max-width: var(--column); margin-inline: auto;
  padding: 0 var(--gutter) max(6px, env(safe-area-inset-bottom));
}
.box {
  display: flex; align-items: flex-end; gap: 4px; padding: 6px; border-radius: 26px; cursor: text;
  background: var(--myna-surface); box-shadow: var(--myna-shadow), inset 0 0 0 1px var(--myna-line-strong);
}
.box:focus-within { box-shadow: var(--myna-shadow), inset 0 0 0 2px var(--myna-focus); }
.box textarea {
  flex: 1; min-width: 0; height: 40px; max-height: min(220px, 38dvh); margin: 0; padding: 8px 6px 8px 14px;
  resize: none;
  border: 0; outline: 0; background: none; color: inherit; font: inherit; line-height: 24px; overflow-y: auto;
  scrollbar-width: thin;
}
@media (pointer: coarse) { .box textarea { font-size: 16px; } }
.box textarea::placeholder { color: var(--myna-muted); opacity: 1; }
.round { border-radius: 50%; background: var(--myna-accent); color: var(--myna-on-accent); }
.round:hover { background: color-mix(in srgb, var(--myna-accent) 86%, var(--myna-ink)); color: var(--myna-on-accent); }
.round:disabled { background: var(--myna-sunken); color: var(--myna-muted); cursor: default; }
.stop, .stop:hover { background: var(--myna-ink); color: var(--myna-bg); }
.stop .icon { fill: currentColor; }
.banner {
  display: flex; align-items: center; gap: 8px; margin: 0 10px -14px; padding: 2px 4px 16px 14px;
  border-radius: 16px 16px 0 0; background: var(--myna-own); font-size: 14px; line-height: 1.35;
}
.banner span { flex: 1; }
.banner .icon { width: 17px; height: 17px; }
.below {
  display: flex; justify-content: center; gap: 16px; min-height: 26px; padding: 4px 14px 0; color: var(--myna-muted);
  font-size: 12.5px;
}
.below p { margin: 0; }
.count.over { color: var(--myna-warn); font-weight: 650; }
.panel .hint { display: none; }
.panel .below { min-height: 8px; }
@media (hover: none), (max-width: 600px) {
  .hint { display: none; }
  .below { min-height: 8px; }
}

@keyframes hop { 0%, 60%, 100% { transform: none; opacity: .55; } 30% { transform: translateY(-5px); opacity: 1; } }
@keyframes blink { from { opacity: 1; } to { opacity: 0; } }
@keyframes land { from { opacity: 0; transform: translateY(-10px) rotate(-7deg); } }
`;
