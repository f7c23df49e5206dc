// The console: asks its API every two seconds while it is looked at, and draws the answers.

import { byId, el, put, say, setText, sync } from './dom.js';
import { capital, count, never, percent, score, times, usd, words } from './format.js';
import { ask, chips, clock, me, send, tellTimes, time, title } from './parts.js';
import { drawIncidents, drawMutes } from './incidents.js';
import { Chart, spark } from './chart.js';
import { Live, any, cost, nameOf, quality, requests, spend, treated, untreated } from './live.js';

const EVERY = 2000;
const live = new Live();
let incidents = [], groups = [], decisions = [], status = { components: [] };

// Asking.

let round = 0;

async function refresh(ordered) {
  const from = live.from();
  const [s, l, i, g, d, m] = await Promise.allSettled([
    ask('/api/status'), ask('/api/live' + (from ? `?from=${from}` : '')), ask('/api/incidents'), ask('/api/groups'), ask('/api/decisions'),
    ordered || round++ % 5 === 0 ? ask('/api/mutes') : null, // every open key is asked for it
  ]);
  const gone = [s, l, i, g, d].every((r) => r.status === 'rejected' && r.reason.gone);
  document.body.classList.toggle('gone', gone);
  const link = byId('link');
  link.className = gone ? 'link lost' : 'link';
  setText(link, gone ? 'connection lost, trying again' : 'live');
  if (gone) return;
  if (s.status === 'fulfilled') drawStatus(status = s.value);
  if (i.status === 'fulfilled') incidents = i.value;
  if (g.status === 'fulfilled') groups = g.value;
  if (d.status === 'fulfilled') decisions = d.value;
  if (l.status === 'fulfilled') {
    live.take(l.value);
    clock.skew = live.to - Date.now();
    drawFigures();
    drawKeys();
  } else if (!live.keys.size) {
    say(byId('keys'), l.reason.message, 'away');
  }
  const lost = [i, g].find((r) => r.status === 'rejected');
  lost ? drawAway('incidents', lost.reason) : drawIncidents(groups, incidents, () => refresh(true));
  setCount('incidents', lost ? 0 : groups.length + incidents.length);
  if (m.status === 'fulfilled' && m.value) drawMutes(m.value, () => refresh(true));
  d.status === 'fulfilled' ? drawDecisions() : drawAway('inbox', d.reason);
  tellTimes();
  if (!lost && d.status === 'fulfilled') follow();
}

// Links from Slack and PagerDuty name after the # what they are about.

let followed = '';

/** follow shows what the address names, once: whoever reads on must not be pulled back. */
function follow() {
  if (followed === location.hash) return;
  followed = location.hash;
  let id = followed.slice(1);
  try { id = decodeURIComponent(id); } catch { /* then it is as it is */ }
  const note = byId('linked'), node = id.includes('/') ? byId(id) : null;
  note.hidden = !!node || !id.includes('/');
  put(note, ...(note.hidden ? [] : [`What the link leads to is not open any more: ${id}. `,
    !id.startsWith('decision/') && el('a', { href: `/api/report?id=${encodeURIComponent(id)}`, target: '_blank' }, 'Its report')]));
  document.querySelector('.card[data-linked]')?.removeAttribute('data-linked');
  node?.setAttribute('data-linked', '');
  node?.scrollIntoView({ block: 'start' });
}

window.addEventListener('hashchange', () => refresh());

async function run() {
  for (;;) {
    if (!document.hidden) await refresh();
    await new Promise((wake) => {
      const timer = setTimeout(wake, EVERY);
      document.addEventListener('visibilitychange', () => { clearTimeout(timer); wake(); }, { once: true });
    });
  }
}

// The system itself.

function drawStatus() {
  const banner = byId('banner');
  banner.hidden = !status.banner;
  setText(banner, status.banner ?? '');
  sync(byId('components'), status.components, (c) => c.name, () => el('li'), (li, c) => {
    const progress = c.state === 'building' ? Math.round((c.progress ?? 0) * 100) : null;
    const tone = { ready: 'good', restarted: 'good', died: 'bad', failed: 'bad' }[c.state] ?? 'busy';
    const name = c.name === 'temporal' && status.temporal_ui
      ? el('a', { href: status.temporal_ui, target: '_blank', rel: 'noreferrer' }, c.name) : c.name;
    li.className = `component ${tone}`;
    li.title = [c.state, c.detail].filter(Boolean).join(': ');
    put(li, el('span', { class: 'light', 'aria-hidden': true }), el('span', {}, name),
      tone === 'good' ? el('span', { class: 'unseen' }, c.state) : el('span', { class: 'state' }, progress === null ? c.state : `${c.state} ${progress} %`),
      progress !== null && el('progress', { max: 100, value: progress, 'aria-label': `${c.name} ${c.state}` }));
  });
}

function drawAway(id, error) {
  const building = status.components.find((c) => c.name === 'temporal' && !['ready', 'restarted'].includes(c.state));
  const why = building ? `It opens once temporal is up: ${building.state}${building.progress ? ` ${Math.round(building.progress * 100)} %` : ''}.` : capital(error.message);
  say(byId(id), why, 'away');
  setCount(id, 0);
}

function setCount(id, n) {
  const badge = byId(`${id}-count`);
  badge.hidden = n === 0;
  setText(badge, String(n));
}

// Figures and keys.

function drawFigures() {
  const all = live.all();
  const last = live.recent(all, 1), five = live.recent(all, 5);
  const usual = [...live.keys.values()].reduce((t, k) => t + (k.usual?.spend_per_minute_usd ?? 0), 0);
  const hour = spend(all.filter((m) => m.at >= live.first));
  const q = quality(five);
  const figures = [
    { name: 'Spend per minute', value: usd(spend(last)), note: usual > 0 ? `usually ${usd(usual)}` : ' ', line: live.line(all, any, spend) },
    { name: 'Spend, last hour', value: usd(hour), note: `${usd(hour * 24)} a day at this pace` },
    { name: 'Calls per minute', value: count(requests(last)), note: `${live.keys.size} ${live.keys.size === 1 ? 'key' : 'keys'}`, line: live.line(all, any, requests) },
    { name: 'Quality', value: q === null ? 'no scores' : score(q), note: 'last 5 minutes', line: live.line(all, any, quality) },
  ];
  sync(byId('figures'), figures, (f) => f.name, () => el('div', { class: 'figure' }), (node, f) => {
    put(node, el('h2', {}, f.name), el('p', { class: 'value' }, f.value), el('p', { class: 'note' }, f.note),
      f.line && spark(f.line, { width: 200, height: 36, label: `${f.name}, last hour` }));
  });
}

/** tone grades a ratio to the usual. */
const costTone = (r) => (r >= 1.5 ? 'bad' : r >= 1.2 ? 'warn' : r <= 0.8 ? 'good' : '');
const qualityTone = (r) => (r <= 0.85 ? 'bad' : r <= 0.92 ? 'warn' : '');

const opened = new Map(); // name → the key's charts, once opened
let choseKey = false;

function drawKeys() {
  const trouble = new Map([...groups.flatMap((g) => g.keys.filter((k) => !k.left)), ...incidents].map((i) => [nameOf(i.key), i]));
  const rows = [...live.keys.entries()].map(([name, k]) => {
    const minutes = [...k.minutes.values()];
    const five = live.recent(minutes, 5);
    return {
      name, key: k.key, usual: k.usual, level: trouble.get(name)?.level, total: spend(minutes), rate: spend(five) / 5,
      cost: cost(five), quality: quality(five), treated: requests(five.filter((m) => treated(m.arm))) / (requests(five) || 1),
      line: live.line(minutes, any, spend),
    };
  });
  const rank = (r) => (r.level === 'PAGE' ? 2 : r.level ? 1 : 0);
  rows.sort((a, b) => rank(b) - rank(a) || b.total - a.total || (a.name < b.name ? -1 : 1));
  if (!rows.length) {
    say(byId('keys'), 'No calls in the last hour. Send spans to /v1/spans, or start the simulator.');
    return;
  }
  sync(byId('keys'), rows, (r) => r.name, buildKey, updateKey);
  if (!choseKey && ![...opened.values()].some((o) => o.open)) toggleKey(rows[0].name, true);
  for (const [name, o] of opened) if (o.open) drawCharts(name, o);
}

function buildKey(r) {
  const id = `key-${Math.random().toString(36).slice(2)}`;
  const body = el('div', { class: 'charts', id, hidden: true });
  const button = el('button', { class: 'row', type: 'button', 'aria-expanded': false, 'aria-controls': id, onclick: () => { choseKey = true; toggleKey(r.name); } });
  opened.set(r.name, { open: false, body, button });
  return el('article', { class: 'key' }, button, body);
}

function updateKey(node, r) {
  const cell = (kind, name, value, ratio, tone) => el('span', { class: `cell ${kind}` }, el('span', { class: 'label' }, name),
    el('span', { class: 'number' }, value), ratio !== null && el('span', { class: `ratio ${tone}` }, times(ratio)));
  const ratio = (value, usual) => (value !== null && usual > 0 ? value / usual : null);
  const c = ratio(r.cost, r.usual?.cost_usd), q = ratio(r.quality, r.usual?.quality);
  node.className = `key ${chips[r.level] ?? ''}`;
  put(node.querySelector('.row'),
    el('span', { class: 'name' }, el('span', { class: 'tenant' }, r.key.tenant), el('span', { class: 'model' }, r.key.model),
      r.level && el('span', { class: `chip ${chips[r.level]}` }, r.level), r.treated > 0 && el('span', { class: 'chip treated' }, `${Math.round(r.treated * 100)} % treated`)),
    el('span', { class: 'trend' }, spark(r.line, { label: 'spend, last hour' })),
    cell('spend', 'per minute', usd(r.rate), null, ''),
    cell('cost', 'per call', r.cost === null ? '–' : usd(r.cost), c, costTone(c)),
    cell('quality', 'quality', r.quality === null ? '–' : score(r.quality), q, qualityTone(q)),
    el('span', { class: 'caret', 'aria-hidden': true }));
}

function toggleKey(name, open) {
  const o = opened.get(name);
  o.open = open ?? !o.open;
  o.body.hidden = !o.open;
  o.button.setAttribute('aria-expanded', o.open);
  if (!o.charts && o.open) {
    o.charts = {
      spend: new Chart({ title: 'Spend per minute', format: usd }),
      cost: new Chart({ title: 'Median cost of a call', format: usd }),
      quality: new Chart({ title: 'Quality', format: score, top: 1 }),
    };
    o.body.append(...Object.values(o.charts).map((c) => c.node));
  }
  if (o.open) drawCharts(name, o);
}

function drawCharts(name, o) {
  const k = live.keys.get(name);
  if (!k) return;
  const minutes = [...k.minutes.values()];
  const range = { x0: live.first, x1: live.current };
  const acting = minutes.some((m) => treated(m.arm));
  const arms = (value) => (acting
    ? [{ name: 'untreated', kind: 'plain', points: live.line(minutes, untreated, value) }, { name: 'treated', kind: 'treated', points: live.line(minutes, treated, value) }]
    : [{ name: 'all calls', kind: 'plain', points: live.line(minutes, any, value) }]);
  o.charts.spend.show({ ...range, usual: k.usual?.spend_per_minute_usd, lines: [{ name: 'all calls', kind: 'plain', fill: true, points: live.line(minutes, any, spend) }] });
  o.charts.cost.show({ ...range, usual: k.usual?.cost_usd, lines: arms(cost) });
  o.charts.quality.show({ ...range, usual: k.usual?.quality, lines: arms(quality) });
}

// Decisions.

const announced = new Set();

function drawDecisions() {
  const waiting = decisions.filter((d) => d.waiting), acting = decisions.filter((d) => !d.waiting);
  setCount('inbox', waiting.length);
  document.title = waiting.length ? `(${waiting.length}) Flyball` : 'Flyball';
  const fresh = waiting.filter((d) => !announced.has(d.id));
  if (fresh.length) {
    fresh.forEach((d) => announced.add(d.id));
    setText(byId('announce'), fresh.map((d) => `Waiting for you: ${headline(d)}, ${d.key.tenant} ${d.key.model}.`).join(' '));
  }
  if (waiting.length) sync(byId('inbox'), waiting, (d) => d.id, buildQuestion, updateQuestion);
  else say(byId('inbox'), 'Nothing waits for you.');
  byId('acts-section').hidden = !acting.length;
  setText(byId('acts-count'), String(acting.length));
  sync(byId('acts'), acting, (d) => d.id, (d) => el('article', { id: d.id, class: 'card act' }), (node, d) => put(node, story(d)));
}

/** headline names the act; the value of a rollback is the service that it undoes a deployment of. */
const headline = (d) => `${capital(words(d.action))}${d.value ? ` ${d.action === 'rollback' ? 'of' : 'to'} ${d.value}` : ''}`;

function story(d) {
  return [
    el('header', {}, el('span', { class: 'chip' }, words(d.status)), time(d.opened, 'since'),
      d.waiting && !never(d.expires_at) && time(d.expires_at, 'until', 'expires ')),
    el('h3', { class: 'act-name' }, headline(d)),
    title(d.key, d.link),
    el('p', { class: 'why' }, d.reason),
    d.shares?.length ? ladder(d) : null,
    d.caution && el('p', { class: 'caution' }, d.caution),
    d.effect && el('p', { class: 'effect' }, d.effect),
    el('p', { class: 'fine' }, [d.trust, d.rule && `rule ${d.rule}`, `decision ${d.handle}`].filter(Boolean).join(' · ')),
  ];
}

/** ladder shows the shares that an act climbs, and the one it is on. */
function ladder(d) {
  const reached = d.shares.reduce((best, s, i) => (d.share >= s - 1e-9 ? i : best), -1);
  return el('ol', { class: 'ladder', 'aria-label': 'share of the calls that it touches' },
    d.shares.map((s, i) => el('li', { class: i === reached ? 'on' : i < reached ? 'past' : '', 'aria-current': i === reached ? 'step' : null }, percent(s))),
    el('li', { class: 'rest' }, `holdback ${percent(1 - d.shares.at(-1))}`));
}

function buildQuestion(d) {
  const facts = el('div', { class: 'facts' });
  const problem = el('p', { class: 'problem', role: 'alert' });
  const reason = el('textarea', { rows: 2, maxlength: 1500, 'aria-label': 'Why do you deny it?', placeholder: 'Why do you deny it? Others will read this.' });
  const approve = el('button', { class: 'primary', type: 'button', onclick: () => decide('approve') }, 'Approve');
  const deny = el('button', { type: 'button', 'aria-expanded': false, onclick: () => ask_(true) }, 'Deny …');
  const confirm = el('button', { class: 'danger', type: 'submit' }, 'Deny');
  const cancel = el('button', { type: 'button', onclick: () => ask_(false) }, 'Back');
  const form = el('form', { hidden: true, onsubmit: (e) => { e.preventDefault(); decide('deny'); } }, reason, el('div', { class: 'buttons' }, confirm, cancel));
  const first = el('div', { class: 'buttons' }, approve, deny);
  reason.addEventListener('input', () => setText(problem, ''));
  form.addEventListener('keydown', (e) => { if (e.key === 'Escape') ask_(false); });

  function ask_(open) {
    form.hidden = !open;
    first.hidden = open;
    deny.setAttribute('aria-expanded', open);
    setText(problem, '');
    (open ? reason : deny).focus();
  }

  async function decide(verdict) {
    const who = me(problem);
    if (!who) return;
    if (verdict === 'deny' && !reason.value.trim()) {
      setText(problem, 'Give a reason: others will read it.');
      reason.focus();
      return;
    }
    await send('/api/decide', { id: d.id, verdict, who, reason: verdict === 'deny' ? reason.value.trim() : '' }, {
      buttons: [approve, deny, confirm, cancel], problem, refresh,
      done: () => `${verdict === 'approve' ? 'Approved' : 'Denied'}: ${headline(d)}.`,
    });
  }

  return el('article', { id: d.id, class: 'card question' }, facts, first, form, problem);
}

function updateQuestion(node, d) {
  put(node.querySelector('.facts'), story(d));
}

// The name that people sign with is remembered by this browser only.

const who = byId('who');
try { who.value = localStorage.getItem('who') ?? ''; } catch { /* storage is forbidden here */ }
who.addEventListener('change', () => { try { localStorage.setItem('who', who.value.trim()); } catch { /* storage is forbidden here */ } });

run();
