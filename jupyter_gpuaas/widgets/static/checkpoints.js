/** The checkpoints of a session as Python gave them, newest first. */

function amount(bytes) {
  let count = bytes;
  for (const unit of ['B', 'KB', 'MB', 'GB']) {
    if (count < 1000) {
      return `${unit === 'B' || count >= 10 ? count.toFixed(0) : count.toFixed(1)} ${unit}`;
    }
    count /= 1000;
  }
  return `${count.toFixed(1)} TB`;
}

function element(parent, tag, className, text) {
  const made = document.createElement(tag);
  if (className) {
    made.className = className;
  }
  if (text !== undefined) {
    made.textContent = text;
  }
  parent.append(made);
  return made;
}

function render({ model, el }) {
  const root = element(el, 'section', 'gpuaas-widget');
  root.setAttribute('aria-label', 'Checkpoints of the remote session');
  const { session, checkpoints } = model.get('facts');
  element(root, 'div', 'gpuaas-head', session);
  const list = element(root, 'ol');
  list.tabIndex = 0; // It scrolls.
  for (const each of [...checkpoints].reverse()) {
    const item = element(list, 'li', each.name ? 'gpuaas-named' : '');
    const named = each.name ? ` “${each.name}”` : '';
    element(item, 'span', '', `${each.short}${named} after cell ${each.cell}`);
    const when = new Date(1000 * each.created_s).toLocaleTimeString();
    const size = `${amount(each.bytes)}, ${amount(each.new_bytes)} new`;
    element(item, 'div', 'gpuaas-quiet', `${when}; ${size}; held the next cell up for ${each.stall}`);
    for (const [name, why] of Object.entries(each.lost)) {
      element(item, 'div', 'gpuaas-quiet', `not restorable: ${name}: ${why}`);
    }
  }
}

export default { render };
