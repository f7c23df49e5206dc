// What every part of the page needs: asking, signing, and how times and titles look.

import { byId, el, setText } from './dom.js';
import { capital, moment, since, until } from './format.js';

export const chips = { PAGE: 'bad', INVESTIGATE: 'warn' };

/** clock is the server's, by what its answers said. */
export const clock = { skew: 0, now: () => Date.now() + clock.skew };

export async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { signal: AbortSignal.timeout(8000), ...options });
  } catch {
    throw Object.assign(new Error('Flyball does not answer.'), { gone: true });
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Error(body?.error?.message ?? `Flyball answered ${response.status}.`);
  return body;
}

/** me is the name to sign with; without one it asks for it and is empty. */
export function me(problem) {
  const who = byId('who');
  const name = who.value.trim();
  if (!name) {
    setText(problem, 'Say who you are first, above.');
    who.focus();
  }
  return name;
}

/** send posts what a person wants, and says in problem why it could not be; it reports whether it could. */
export async function send(path, body, { buttons, problem, refresh, done }) {
  for (const b of buttons) b.disabled = true;
  setText(problem, '');
  try {
    // An order to many keys takes its time, and is not to be cut off by impatience.
    const answer = await ask(path, {
      method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body), signal: AbortSignal.timeout(60000),
    });
    setText(byId('announce'), done(answer));
    await refresh();
    return true;
  } catch (error) {
    setText(problem, capital(error.message));
    return false;
  } finally {
    for (const b of buttons) b.disabled = false;
  }
}

export const outward = (link) => link && el('a', { class: 'out', href: link, target: '_blank', rel: 'noreferrer' }, 'in Temporal');

export const title = (key, link) => el('h3', {}, el('span', { class: 'tenant' }, key.tenant), ' ', el('span', { class: 'model' }, key.model), outward(link));

// Times age without a new answer.

export function time(text, kind, before = '') {
  const at = Date.parse(text);
  return el('time', { datetime: text, title: moment(at), 'data-kind': kind, 'data-before': before }, phrase(kind, at, before));
}

const phrase = (kind, at, before) => before + (kind === 'until' ? until(at, clock.now()) : since(at, clock.now()));

export function tellTimes() {
  for (const t of document.querySelectorAll('time[data-kind]')) setText(t, phrase(t.dataset.kind, Date.parse(t.dateTime), t.dataset.before));
}
