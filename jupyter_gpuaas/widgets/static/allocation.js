/**
 * The devices of a session. What Python gave is shown at once; in a page of a Jupyter server with our extension, what
 * the devices do is asked for again while somebody can see it. Nothing else is requested from anywhere.
 */

const PAUSE_MS = 5000;
const KEPT = 60;
const TRIES = 3;

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

function line(parent, values) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', `0 0 ${KEPT - 1} 1`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  const points = document.createElementNS('http://www.w3.org/2000/svg', 'polyline');
  points.setAttribute('points', values.map((value, place) => `${place},${1 - value}`).join(' '));
  svg.append(points);
  parent.append(svg);
}

function draw(root, facts, history) {
  root.replaceChildren();
  const place = facts.queue_place ? `, place ${facts.queue_place} in the queue` : '';
  const where = facts.node ? ` on ${facts.node}` : '';
  element(root, 'div', 'gpuaas-head', facts.name);
  const state = element(root, 'div', '', `${facts.state}${place}${where}`);
  state.setAttribute('role', 'status');
  if (facts.cause) {
    element(root, 'div', 'gpuaas-quiet', facts.cause);
  }
  for (const device of facts.devices) {
    const row = element(root, 'div', 'gpuaas-device');
    element(row, 'span', '', `${device.id} ${device.label}`);
    const share = device.memory_bytes > 0 ? Math.min(1, device.used_bytes / device.memory_bytes) : 0;
    const words = `${amount(device.used_bytes)} of ${amount(device.memory_bytes)}`;
    const meter = element(row, 'div', 'gpuaas-meter');
    meter.setAttribute('role', 'meter');
    meter.setAttribute('aria-label', `memory of ${device.id}`);
    meter.setAttribute('aria-valuemin', '0');
    meter.setAttribute('aria-valuemax', String(device.memory_bytes));
    meter.setAttribute('aria-valuenow', String(device.used_bytes));
    meter.setAttribute('aria-valuetext', words);
    element(meter, 'div', 'gpuaas-fill').style.width = `${(100 * share).toFixed(1)}%`;
    const busy = device.utilisation >= 0 ? `, ${(100 * device.utilisation).toFixed(0)} % busy` : '';
    element(row, 'span', 'gpuaas-quiet', words + busy);
    line(row, history.get(device.id) ?? []);
  }
}

/** Address of our extension on this page's Jupyter server; null where it is no page of one. */
function address() {
  const config = document.getElementById('jupyter-config-data');
  try {
    const base = JSON.parse(config?.textContent ?? '{}').baseUrl;
    return typeof base === 'string' ? new URL(`${base}jupyter-gpuaas/`, location.href) : null;
  } catch {
    return null;
  }
}

async function ask(base, path) {
  const answer = await fetch(new URL(path, base), { credentials: 'same-origin' });
  if (!answer.ok) {
    throw new Error(String(answer.status));
  }
  return answer.json();
}

async function news(base, facts) {
  const service = await ask(base, 'service');
  if (service.state !== 'ready') {
    return facts; // Looking starts nothing.
  }
  const [view, nodes] = await Promise.all([
    ask(base, `v1/sessions/${encodeURIComponent(facts.id)}`),
    ask(base, 'v1/nodes')
  ]);
  const { session } = view;
  const node = nodes.find(each => each.id === session.lease?.node_id);
  const samples = new Map((node?.samples ?? []).map(each => [each.device_id, each]));
  const devices = (node?.devices ?? [])
    .filter(each => session.lease.device_ids.includes(each.id))
    .map(each => ({
      id: each.id,
      label: each.label,
      memory_bytes: each.memory_bytes,
      used_bytes: samples.get(each.id)?.used_bytes ?? 0,
      utilisation: samples.get(each.id)?.utilisation ?? -1
    }));
  const { state, cause, queue_place } = session;
  return { ...facts, state, cause, queue_place, node: session.lease?.node_id ?? '', devices };
}

function render({ model, el }) {
  const root = element(el, 'section', 'gpuaas-widget');
  root.setAttribute('aria-label', 'Devices of the remote session');
  const history = new Map();
  let facts = model.get('facts');
  let failures = 0;
  let isSeen = false;
  const note = () => {
    for (const { id, used_bytes, memory_bytes } of facts.devices) {
      const values = history.get(id) ?? [];
      values.push(memory_bytes > 0 ? Math.min(1, used_bytes / memory_bytes) : 0);
      history.set(id, values.slice(-KEPT));
    }
    draw(root, facts, history);
  };
  note();
  const base = address();
  const timer = setInterval(async () => {
    if (base === null || !isSeen || document.hidden || failures >= TRIES) {
      return;
    }
    try {
      facts = await news(base, facts);
      failures = 0;
      note();
    } catch {
      failures += 1; // What is shown stays; a session that has ended has no news.
    }
  }, PAUSE_MS);
  const observer = new IntersectionObserver(entries => {
    isSeen = entries.some(entry => entry.isIntersecting);
  });
  observer.observe(root);
  return () => {
    clearInterval(timer);
    observer.disconnect();
  };
}

export default { render };
