// Building and updating elements. Text always goes in as text, never as markup.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...wanted(children));
  return node;
}

/** wanted leaves out what a condition did not yield. */
const wanted = (children) => children.flat().filter((c) => c !== null && c !== undefined && c !== false);

export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const byId = (id) => document.getElementById(id);

/** put replaces what node holds. */
export const put = (node, ...children) => node.replaceChildren(...wanted(children));

/** setText writes only what changed, so that screen readers and selections are left in peace. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * sync makes container hold one element per item, in order, reusing the elements of items that were
 * there before. update is called only for items that changed, so that focus and half-written
 * reasons survive every refresh.
 */
export function sync(container, items, keyOf, build, update) {
  const old = container.rows ?? new Map();
  const rows = new Map();
  if (!container.rows) container.replaceChildren();
  for (const item of items) {
    const key = keyOf(item);
    const row = old.get(key) ?? { node: build(item), seen: undefined };
    old.delete(key);
    rows.set(key, row);
    const seen = JSON.stringify(item);
    if (row.seen !== seen) {
      row.seen = seen;
      update(row.node, item);
    }
  }
  for (const row of old.values()) row.node.remove();
  let before = container.firstChild;
  for (const { node } of rows.values()) {
    if (node === before) before = before.nextSibling;
    else container.insertBefore(node, before);
  }
  container.rows = rows;
}

/** say shows one line in place of a list. */
export function say(container, text, kind = 'empty') {
  sync(container, [{ text, kind }], (i) => 'say' + i.kind, () => el('p'), (node, i) => {
    node.className = i.kind;
    setText(node, i.text);
  });
}
