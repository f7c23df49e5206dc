// Line charts, drawn by hand as SVG.

import { el, put, setText, svg } from './dom.js';
import { hhmm } from './format.js';

/** ceiling is the least of 1, 2, 2.5, 5 times a power of ten that is at least v. */
function ceiling(v) {
  if (!(v > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(v));
  return [1, 2, 2.5, 5, 10].map((m) => m * power).find((c) => c >= v * 0.999);
}

/** path draws points as a line with gaps where y is null. */
function path(points, x, y) {
  let d = '', pen = 'M';
  for (const p of points) {
    if (p.y === null) { pen = 'M'; continue; }
    d += `${pen}${x(p.x).toFixed(1)} ${y(p.y).toFixed(1)}`;
    pen = 'L';
  }
  return d;
}

/** spark is a small line without axes. */
export function spark(points, { width = 120, height = 28, label }) {
  const values = points.filter((p) => p.y !== null);
  const top = Math.max(...values.map((p) => p.y), 0) || 1;
  const [x0, x1] = [points[0]?.x ?? 0, points.at(-1)?.x ?? 1];
  const x = (v) => 1 + (width - 4) * (x1 > x0 ? (v - x0) / (x1 - x0) : 1);
  const y = (v) => height - 2 - (height - 5) * (v / top);
  const line = path(points, x, y);
  const last = values.at(-1);
  return svg('svg', { class: 'spark', viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': label, preserveAspectRatio: 'none' },
    values.length > 1 && svg('path', { class: 'spark-area', d: area(points, x, y, height - 2) }),
    svg('path', { class: 'spark-line', d: line, 'vector-effect': 'non-scaling-stroke' }),
    last && svg('circle', { class: 'spark-end', cx: x(last.x), cy: y(last.y), r: 2 }));
}

function area(points, x, y, floor) {
  let d = '', run = [];
  const close = () => {
    if (run.length > 1) d += `M${x(run[0].x).toFixed(1)} ${floor}` + run.map((p) => `L${x(p.x).toFixed(1)} ${y(p.y).toFixed(1)}`).join('') + `L${x(run.at(-1).x).toFixed(1)} ${floor}Z`;
    run = [];
  };
  for (const p of points) p.y === null ? close() : run.push(p);
  close();
  return d;
}

/**
 * Chart is one titled chart of some lines over the same minutes, with a dashed line for what is
 * usual. The pointer, or the arrow keys while it has focus, reads a minute off: its time shows beside
 * the title, its values in the legend.
 */
export class Chart {
  constructor({ title, format, top }) {
    this.format = format;
    this.top = top;
    this.legend = el('div', { class: 'legend' });
    this.plot = el('div', { class: 'plot', tabindex: 0, role: 'img' });
    this.minute = el('span', { class: 'minute' });
    this.spoken = el('p', { class: 'unseen', 'aria-live': 'polite' });
    this.title = title;
    this.node = el('figure', { class: 'chart' }, el('figcaption', {}, title, this.minute), this.plot, this.legend, this.spoken);
    this.plot.addEventListener('pointermove', (e) => this.point(e.clientX));
    this.plot.addEventListener('pointerleave', () => this.read(null));
    this.plot.addEventListener('blur', () => this.read(null));
    this.plot.addEventListener('keydown', (e) => this.step(e));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  /** show takes lines [{name, kind, points: [{x, y}]}], all over the same xs, and the usual value. */
  show({ lines, usual, x0, x1 }) {
    Object.assign(this, { lines, usual, x0, x1 });
    this.draw();
  }

  draw() {
    const width = Math.round(this.plot.clientWidth), height = 132;
    if (!this.lines || width < 60) return;
    const left = 46, right = 8, upper = 8, lower = 20;
    const values = this.lines.flatMap((l) => l.points.map((p) => p.y)).filter((v) => v !== null);
    const top = this.top ?? ceiling(Math.max(...values, this.usual ?? 0, 0) * 1.05);
    const x = (v) => left + (width - left - right) * ((v - this.x0) / (this.x1 - this.x0));
    const y = (v) => upper + (height - upper - lower) * (1 - Math.min(v, top) / top);
    this.scale = { x, y, top, left, right, width, height, lower };

    const grid = [0, 0.5, 1].map((f) => svg('g', {},
      svg('line', { class: 'grid', x1: left, x2: width - right, y1: y(top * f), y2: y(top * f) }),
      svg('text', { class: 'tick', x: left - 6, y: y(top * f) + 4, 'text-anchor': 'end' }, this.format(top * f))));
    const every = width < 330 ? 20 : 15;
    for (let at = Math.ceil(this.x0 / (every * 60000)) * every * 60000; at <= this.x1; at += every * 60000) {
      if (x(at) > left + 12 && x(at) < width - 14) grid.push(svg('text', { class: 'tick', x: x(at), y: height - 5, 'text-anchor': 'middle' }, hhmm(at)));
    }
    const usual = this.usual > 0 ? [svg('line', { class: 'usual', x1: left, x2: width - right, y1: y(this.usual), y2: y(this.usual) })] : [];
    const lines = this.lines.map((l) => svg('g', { class: `line ${l.kind}` },
      l.fill && svg('path', { class: 'fill', d: area(l.points, x, y, y(0)) }),
      svg('path', { class: 'stroke', d: path(l.points, x, y) }),
      ...alone(l.points).map((p) => svg('circle', { class: 'dot', cx: x(p.x), cy: y(p.y), r: 2 }))));
    this.cursor = svg('g', { class: 'cursor', visibility: 'hidden' });
    this.plot.replaceChildren(svg('svg', { width, height, viewBox: `0 0 ${width} ${height}`, 'aria-hidden': true }, grid, usual, lines, this.cursor));
    this.plot.setAttribute('aria-label', this.summary());
    this.values = this.lines.map(() => el('b'));
    put(this.legend, this.lines.map((l, i) => el('span', { class: `entry ${l.kind}` }, l.name, this.values[i])),
      this.usual > 0 && el('span', { class: 'entry usual' }, 'usual ' + this.format(this.usual)));
    this.read(this.at ?? null);
  }

  summary() {
    const parts = this.lines.map((l) => {
      const last = l.points.findLast((p) => p.y !== null);
      return last ? `${l.name} ${this.format(last.y)} at ${hhmm(last.x)}` : `${l.name}: no data`;
    });
    if (this.usual > 0) parts.push(`usual ${this.format(this.usual)}`);
    return `${this.title}: ${parts.join(', ')}. Arrow keys read single minutes.`;
  }

  point(clientX) {
    const { left, right, width } = this.scale ?? {};
    if (!width) return;
    const px = clientX - this.plot.getBoundingClientRect().left;
    const at = this.x0 + ((px - left) / (width - left - right)) * (this.x1 - this.x0);
    const xs = this.lines[0].points.map((p) => p.x);
    this.read(xs.reduce((best, v) => (Math.abs(v - at) < Math.abs(best - at) ? v : best), xs[0] ?? null));
  }

  step(e) {
    const xs = this.lines?.[0]?.points.map((p) => p.x) ?? [];
    if (!xs.length) return;
    const i = this.at === null || this.at === undefined ? xs.length : xs.indexOf(this.at);
    const next = { ArrowLeft: i - 1, ArrowRight: i + 1, Home: 0, End: xs.length - 1 }[e.key];
    if (next === undefined) return;
    e.preventDefault();
    this.read(xs[Math.max(0, Math.min(xs.length - 1, next))]);
    setText(this.spoken, `${this.minute.textContent}: ${this.lines.map((l, i) => `${l.name} ${this.values[i].textContent}`).join(', ')}`);
  }

  read(at) {
    this.at = at;
    const reading = this.cursor && at !== null && at >= this.x0;
    setText(this.minute, reading ? hhmm(at) : '');
    const here = (this.lines ?? []).map((l) => (reading ? l.points.find((p) => p.x === at)?.y ?? null : undefined));
    here.forEach((v, i) => setText(this.values[i], v === undefined ? '' : v === null ? 'no data' : this.format(v)));
    this.cursor?.setAttribute('visibility', reading ? 'visible' : 'hidden');
    if (!reading) return;
    const { x, y, height, lower } = this.scale;
    put(this.cursor, svg('line', { x1: x(at), x2: x(at), y1: 4, y2: height - lower }),
      here.map((v, i) => v !== null && svg('g', { class: `line ${this.lines[i].kind}` }, svg('circle', { class: 'dot', cx: x(at), cy: y(v), r: 3.5 }))));
  }
}

/** alone are the points without neighbours, which a line would not show. */
function alone(points) {
  return points.filter((p, i) => p.y !== null && (points[i - 1]?.y ?? null) === null && (points[i + 1]?.y ?? null) === null);
}
