// The last hour of every key, kept up to date from small answers, and what is drawn from it.

const MINUTE = 60000;

export const nameOf = (key) => `${key.tenant}\u0000${key.model}`;

export class Live {
  constructor() {
    this.keys = new Map();
    this.to = 0;
  }

  /** from is what to ask for next: the hour at first and once a minute, else the last minutes. */
  from() {
    if (!this.to || this.to - (this.whole ?? 0) > MINUTE) return '';
    return new Date(this.to - 3 * MINUTE).toISOString();
  }

  /** take merges an answer; one for the whole hour replaces everything. */
  take(body) {
    const to = Date.parse(body.to), from = Date.parse(body.from);
    const hour = to - from > 59 * MINUTE;
    if (hour) {
      this.keys = new Map();
      this.whole = to;
    }
    this.to = to;
    for (const s of body.keys) {
      const name = nameOf(s.key);
      const known = this.keys.get(name) ?? { key: s.key, minutes: new Map() };
      known.usual = s.usual;
      for (const [id, m] of known.minutes) if (m.at >= from) known.minutes.delete(id);
      for (const m of s.minutes) known.minutes.set(m.start + m.arm, { ...m, at: Date.parse(m.start) });
      this.keys.set(name, known);
    }
  }

  /** first and current are the range of whole minutes shown; the current one is still filling. */
  get current() { return Math.floor(this.to / MINUTE) * MINUTE; }
  get first() { return this.current - 60 * MINUTE; }

  /** line is one value per minute; value sees the minutes of the wanted arms and may be null. */
  line(minutes, wanted, value, upTo = this.current) {
    const byMinute = new Map();
    for (const m of minutes) if (wanted(m.arm)) byMinute.set(m.at, [...(byMinute.get(m.at) ?? []), m]);
    const points = [];
    for (let at = this.first; at < upTo; at += MINUTE) {
      const here = byMinute.get(at);
      points.push({ x: at, y: here ? value(here) : null });
    }
    return points;
  }

  all() { return [...this.keys.values()].flatMap((k) => [...k.minutes.values()]); }

  /** recent are the minutes of the last n whole minutes. */
  recent(minutes, n) { return minutes.filter((m) => m.at >= this.current - n * MINUTE && m.at < this.current); }
}

const sum = (list, field) => list.reduce((total, m) => total + m[field], 0);

function weighted(list, value, weight) {
  const n = sum(list, weight);
  return n > 0 ? list.reduce((total, m) => total + m[value] * m[weight], 0) / n : null;
}

export const spend = (list) => sum(list, 'spend_usd');
export const requests = (list) => sum(list, 'requests');
export const cost = (list) => weighted(list, 'cost_usd', 'requests');
export const quality = (list) => weighted(list, 'quality', 'scores');
export const any = () => true;
export const treated = (arm) => arm === 'treated';
export const untreated = (arm) => arm !== 'treated';
