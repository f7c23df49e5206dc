// How numbers and times are written for people.

const significant = new Intl.NumberFormat('en-US', { maximumSignificantDigits: 3 });
const tiny = new Intl.NumberFormat('en-US', { maximumSignificantDigits: 2 });
const cents = new Intl.NumberFormat('en-US', { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hour12: false });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'long', hour12: false });

export const usd = (v) => '$' + (v >= 1000 ? whole : v >= 1 ? cents : v >= 1e-4 ? significant : tiny).format(v);
export const count = (v) => (v >= 10 ? whole : significant).format(v);
export const percent = (v) => significant.format(v * 100) + ' %';
export const score = (v) => v.toFixed(2);
export const times = (v) => '× ' + (v >= 10 ? v.toFixed(0) : v.toFixed(2));
export const hhmm = (ms) => clock.format(ms);
export const moment = (ms) => full.format(ms);

/** span is a length of time in its largest sensible unit. */
export function span(ms) {
  const s = Math.round(Math.abs(ms) / 1000);
  if (s < 60) return `${s} s`;
  if (s < 90 * 60) return `${Math.round(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

export const since = (ms, now) => (now - ms < 1000 ? 'now' : `${span(now - ms)} ago`);
export const until = (ms, now) => (ms <= now ? 'due' : `in ${span(ms - now)}`);

/** never is Go's zero time. */
export const never = (text) => !text || text.startsWith('0001-');

export const capital = (s) => s.charAt(0).toUpperCase() + s.slice(1);
export const words = (s) => s.replaceAll('_', ' ').toLowerCase();
