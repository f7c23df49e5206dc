// Open incidents, those of many keys included, what people say to them, and what is muted.

import { byId, el, put, say, setText, sync } from './dom.js';
import { never, words } from './format.js';
import { chips, me, outward, send, time, title } from './parts.js';

/** drawIncidents shows groups first: one of them may be all that ails the keys. */
export function drawIncidents(groups, incidents, refresh) {
  const all = [...groups, ...incidents];
  if (!all.length) {
    say(byId('incidents'), 'No incident is open.');
    return;
  }
  sync(byId('incidents'), all, (i) => i.id, (i) => build(i, refresh), update);
}

function build(i, refresh) {
  const node = el('article', { id: i.id });
  node.controls = controls(i, refresh);
  node.append(el('div', { class: 'facts' }), ...node.controls.nodes);
  return node;
}

function update(node, i) {
  node.className = `card incident ${chips[i.level] ?? ''}`;
  put(node.querySelector('.facts'), facts(i));
  node.controls.update(i);
}

const walked = (s) => s.status !== 'pending';

function facts(i) {
  const at = i.steps.findLast(walked);
  return [
    el('header', {}, el('span', { class: `chip ${chips[i.level] ?? ''}` }, i.level), el('span', { class: 'chip' }, words(i.state)),
      at && el('span', { class: 'chip' }, `step ${at.name}`), i.mute && el('span', { class: 'chip' }, time(i.mute.until, 'until', 'muted, ends ')),
      time(i.opened, 'since')),
    i.keys ? el('h3', {}, `Many keys fail: ${i.cause}`, outward(i.link)) : title(i.key, i.link),
    el('p', { class: 'why' }, i.reason),
    ...(i.keys ? members(i.keys) : []),
    i.carried && el('p', { class: 'why' }, `What changed: ${i.carried}`),
    i.advice && el('p', { class: 'why' }, `The policy proposes nothing now: ${i.advice}`),
    i.acknowledged && remark('Taken on', i.acknowledged),
    evidence(i.evidence ?? []),
    i.previous && previous(i.previous),
    el('ol', { class: 'steps' }, i.steps.map(step)),
    i.notes?.length ? el('ul', { class: 'notes', 'aria-label': 'Notes' }, i.notes.map((n) => el('li', {}, remark('', n)))) : null,
    el('p', { class: 'fine' }, [i.rule && `rule ${i.rule}`, `incident ${i.handle}`].filter(Boolean).join(' · '), ' · ',
      el('a', { href: `/api/report?id=${encodeURIComponent(i.id)}`, target: '_blank' }, 'report')),
  ];
}

const remark = (before, r) => el('p', { class: 'remark' }, before && `${before} by `, el('b', {}, r.who), r.text && `: ${r.text}`, ' ', time(r.at, 'since'));

/** members are a group's keys; those beyond a handful are a press away. */
function members(keys) {
  const inside = keys.filter((k) => !k.left);
  const line = (k) => el('li', {}, el('span', { class: `chip ${chips[k.level] ?? ''}` }, k.level), ' ', el('span', { class: 'tenant' }, k.key.tenant), ' ', k.key.model,
    k.left && ` (${k.left})`);
  const shown = inside.slice(0, 6), rest = [...inside.slice(6), ...keys.filter((k) => k.left)];
  return [
    el('p', { class: 'why' }, `${inside.length} ${inside.length === 1 ? 'key is' : 'keys are'} in it.`),
    el('ul', { class: 'members' }, shown.map(line)),
    rest.length ? el('details', { class: 'members' }, el('summary', {}, `${rest.length} more, with those that left`), el('ul', {}, rest.map(line))) : null,
  ];
}

const previous = (p) => el('details', { class: 'previous' },
  el('summary', {}, `Last time, `, time(p.opened, 'since'), `: ${words(p.cause || 'it stayed unclear')}`),
  p.reason && el('p', {}, p.reason), p.query && el('pre', { tabindex: 0 }, p.query),
  el('a', { href: `/api/report?id=${encodeURIComponent(p.id)}`, target: '_blank' }, `report of ${p.handle}`));

function evidence(list) {
  if (!list.length) return null;
  return el('dl', { class: 'evidence' }, list.map((e) => el('div', {}, el('dt', {}, e.what), el('dd', {}, e.now, e.usual && el('span', { class: 'was' }, e.usual)))));
}

function step(s) {
  const pending = s.status === 'pending';
  return el('li', { class: `step ${s.status}` },
    el('span', { class: 'when' }, s.name),
    el('span', { class: 'what' }, pending ? s.title : s.text || s.title,
      pending ? (never(s.at) ? null : time(s.at, 'until')) : el('span', { class: 'unseen' }, ` (${s.status})`)));
}

// What people say to an incident.

const HOURS = [[60, '1 hour'], [240, '4 hours'], [1440, '24 hours']];
const name = (key) => (key.tenant.includes('/') ? `alert/${encodeURIComponent(key.tenant)}/${encodeURIComponent(key.model)}` : `${key.tenant}/${key.model}`);

/**
 * forms says of each order that needs words what its form asks: the choices, each a list of [value, text], and
 * whether a reason must be given. build makes the order's fields from what was chosen.
 */
const forms = {
  mute: {
    label: 'Mute', must: true, why: 'Why? Whoever wonders at the silence will read it.',
    choices: (i) => [['What', i.keys ? [[i.id, 'this group']] : [[i.id, 'this key'], [name({ tenant: i.key.tenant, model: '*' }), `all of ${i.key.tenant}`]]], ['For', HOURS]],
    build: (i, [id, minutes]) => ({ id, minutes: Number(minutes) }),
  },
  annotate: { label: 'Note', must: true, why: 'A note for the others', choices: () => [] },
  resolve: { label: 'Resolve', why: 'Why is it over? Its flags come off at once.', choices: () => [] },
  step: {
    label: 'Step', for: (i) => !i.keys, why: 'Why?',
    choices: (i) => [['Step', i.steps.filter((s) => s.name !== 'T+30' || walked(s))
      .map((s) => (walked(s) ? [`rerun_step ${s.name}`, `walk ${s.name} again`] : [`skip_step ${s.name}`, `skip ${s.name}`]))]],
    build: (i, [chosen]) => { const [act, which] = chosen.split(' '); return { do: act, step: which }; },
  },
  accept_level: { label: 'Accept level', must: true, for: (i) => !i.keys, why: 'Why is this the usual level from now on?', choices: () => [] },
  split: {
    label: 'Split', must: true, for: (i) => !!i.keys, why: 'Why has it a cause of its own?',
    choices: (i) => [['Key', i.keys.filter((k) => !k.left).map((k) => [name(k.key), `${k.key.tenant} ${k.key.model}`])]],
    build: (i, [key]) => ({ key }),
  },
};

/** controls are the buttons of an incident and the form that most of them open. */
function controls(first, refresh) {
  let i = first, open = null;
  const problem = el('p', { class: 'problem', role: 'alert' });
  const choices = el('div', { class: 'choices' });
  const reason = el('textarea', { rows: 2, maxlength: 1500, oninput: () => setText(problem, '') });
  const confirm = el('button', { class: 'primary', type: 'submit' });
  const back = el('button', { type: 'button', onclick: () => show(null) }, 'Back');
  const form = el('form', { hidden: true, onsubmit: (e) => { e.preventDefault(); order(open); } }, choices, reason, el('div', { class: 'buttons' }, confirm, back));
  form.addEventListener('keydown', (e) => { if (e.key === 'Escape') show(null); });
  const take = el('button', { type: 'button', onclick: () => order('acknowledge') });
  const openers = Object.keys(forms).filter((f) => forms[f].for?.(i) ?? true)
    .map((f) => el('button', { type: 'button', 'data-form': f, 'aria-expanded': false, onclick: () => show(f) }, `${forms[f].label} …`));
  const buttons = el('div', { class: 'buttons acts' }, take, ...openers);

  function show(which) {
    const from = open;
    open = which;
    form.hidden = !which;
    setText(problem, '');
    for (const b of openers) b.setAttribute('aria-expanded', b.dataset.form === which);
    if (!which) {
      openers.find((b) => b.dataset.form === from)?.focus();
      return;
    }
    const f = forms[which];
    put(choices, f.choices(i).map(([label, options]) => el('label', {}, `${label} `,
      el('select', {}, options.map(([value, text]) => el('option', { value }, text))))));
    reason.value = '';
    reason.placeholder = f.why;
    reason.setAttribute('aria-label', f.why);
    setText(confirm, f.label);
    (choices.querySelector('select') ?? reason).focus();
  }

  async function order(which) {
    const who = me(problem);
    if (!who) return;
    const f = forms[which], text = f ? reason.value.trim() : '';
    if (f?.must && !text) {
      setText(problem, 'Say it in a few words: others will read it.');
      reason.focus();
      return;
    }
    const chosen = [...choices.querySelectorAll('select')].map((s) => s.value);
    const body = { do: which, id: i.id, who, reason: text, ...f?.build?.(i, chosen) };
    const sent = await send('/api/order', body, {
      buttons: [...buttons.children, confirm, back], problem, refresh,
      done: (o) => (o.answered ? `${f?.label ?? 'Taken on'}: done.` : 'Kept: it takes effect as soon as a worker gets to it.'),
    });
    if (sent && f) show(null);
  }

  return {
    nodes: [buttons, form, problem],
    update(now) {
      i = now;
      setText(take, i.acknowledged ? 'Take it over' : 'Take it on');
    },
  };
}

// What is muted.

export function drawMutes({ muted, unanswered }, refresh) {
  byId('mutes-section').hidden = !muted.length && !unanswered;
  setText(byId('mutes-count'), String(muted.length));
  setText(byId('mutes-unanswered'), unanswered ? `No worker is there to tell of the mutes of ${unanswered} keys and groups.` : '');
  sync(byId('mutes'), muted, (m) => m.target, (m) => buildMute(m, refresh), (node, m) => {
    put(node.querySelector('.facts'), el('h3', {}, m.target), el('p', { class: 'why' }, m.reason),
      el('p', { class: 'fine' }, `by ${m.who}, ends `, time(m.until, 'until')));
  });
}

function buildMute(m, refresh) {
  const problem = el('p', { class: 'problem', role: 'alert' });
  const unmute = el('button', { type: 'button', 'aria-label': `Unmute ${m.target}`, onclick: press }, 'Unmute');

  async function press() {
    const who = me(problem);
    if (!who) return;
    await send('/api/order', { do: 'unmute', id: m.target, who, reason: '' }, {
      buttons: [unmute], problem, refresh, done: () => `${m.target} is not muted any more.`,
    });
  }

  return el('article', { class: 'card mute' }, el('div', { class: 'facts' }), el('div', { class: 'buttons' }, unmute), problem);
}
