/**
 * The devices of a session, and a menu that moves it. What Python gave is shown at once; in a page of a Jupyter server
 * with our extension, what the devices do is asked for again while somebody can see it, and the session can be moved
 * through that server, while cells run or not. Nothing else is requested from anywhere.
 */

const PAUSE_MS = 5000;
const KEPT = 60;
const TRIES = 3;
/** Between two looks at a move that is under way. */
const STEP_MS = 500;
const MOVABLE = ['idle', 'busy'];
const ENDED = ['done', 'failed', 'cancelled'];
const PHASES = {
  reserve: 'making room there',
  pre_copy: 'copying while you work',
  quiesce: 'letting the cell that runs come to its end',
  stop_copy: 'copying the last changes',
  restore: 'making the variables there',
  verify: 'handing over',
  cutover: 'beginning there'
};

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

function duration(seconds) {
  return seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

function clock(time_s) {
  return new Date(1000 * time_s).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
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
  if (facts.node) {
    element(root, 'div', 'gpuaas-quiet', held(facts));
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

/** How long the devices have been held, and what ends that. */
function held({ since_s, device_s, parks_s, ends_s }) {
  const used = `used ${(device_s / 3600).toFixed(device_s < 360 ? 3 : 2)} device-hours`;
  const until = parks_s
    ? `parked at ${clock(parks_s)} if it stays idle`
    : ends_s
      ? `ended at ${clock(ends_s)} if nobody attaches`
      : 'until it is parked or released';
  return since_s ? `held since ${clock(since_s)}, ${until}; ${used}` : `held ${until}; ${used}`;
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

/** One request to our extension; what it refuses is thrown in its own words. */
async function ask(base, path, method = 'GET', body = undefined) {
  const asked = { method, credentials: 'same-origin', headers: {} };
  if (method !== 'GET') {
    const token = /(?:^|; )_xsrf=([^;]*)/.exec(document.cookie)?.[1];
    asked.headers = token ? { 'X-XSRFToken': token } : {};
    asked.body = JSON.stringify(body ?? {});
  }
  const answer = await fetch(new URL(path, base), asked);
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    throw new Error([content.message ?? `status ${answer.status}`, content.hint].filter(Boolean).join(' '));
  }
  return content;
}

function sessionPath(facts, ...more) {
  return ['v1/sessions', encodeURIComponent(facts.id), ...more].join('/');
}

async function news(base, facts) {
  const service = await ask(base, 'service');
  if (service.state !== 'ready') {
    return { facts, nodes: [] }; // Looking starts nothing.
  }
  const [view, nodes] = await Promise.all([ask(base, sessionPath(facts)), ask(base, 'v1/nodes')]);
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
  const { state, cause, queue_place, request, parks_s, ends_s } = session;
  const account = { since_s: session.devices_since_s, device_s: view.device_seconds, parks_s, ends_s };
  const place = { node: session.lease?.node_id ?? '', devices };
  return { facts: { ...facts, state, cause, queue_place, request, ...account, ...place }, nodes };
}

/** Devices of a node that are free and would do for the session. */
function room(node, { kind, memory_bytes, devices }) {
  const free = node.devices.filter(
    each =>
      !node.leased.includes(each.id) &&
      (kind === null || each.kind === kind) &&
      each.memory_bytes >= memory_bytes
  );
  return node.state === 'up' && free.length >= devices ? free : [];
}

/** The menu that moves the session; it stays as it is while what is above it is drawn again. */
class MoveMenu {
  constructor(parent, base) {
    this.base = base;
    this.root = element(parent, 'details', 'gpuaas-menu');
    this.root.hidden = true;
    element(this.root, 'summary', '', 'Move to another node…');
    const line = element(this.root, 'div', 'gpuaas-acts');
    this.select = element(line, 'select');
    this.select.setAttribute('aria-label', 'Node to move to');
    this.button = element(line, 'button', '', 'Move');
    this.cancel = element(line, 'button', '', 'Cancel the move');
    this.cancel.hidden = true;
    // How the last move ended, and what the next one would do.
    this.ended = element(this.root, 'div', 'gpuaas-ended');
    this.said = element(this.root, 'div', 'gpuaas-said');
    for (const each of [this.ended, this.said]) {
      each.setAttribute('role', 'status');
    }
    this.accept = element(this.root, 'label');
    this.accept.hidden = true;
    this.box = element(this.accept, 'input');
    this.box.type = 'checkbox';
    this.accept.append(' Move it all the same');
    this.root.addEventListener('toggle', () => this.root.open && this.plan());
    this.select.addEventListener('change', () => this.plan());
    this.box.addEventListener('change', () => this.look());
    this.button.addEventListener('click', () => this.move());
    this.cancel.addEventListener('click', () => this.giveUp());
    this.isMoving = false;
    // Target that was asked about last, and the one whose plan is shown.
    this.asked = '';
    this.planned = '';
    this.isDisposed = false;
  }

  /** What is known now of the session and the pool. */
  update(facts, nodes) {
    this.facts = facts;
    const targets = nodes.filter(node => node.id !== facts.node && room(node, facts.request).length);
    const known = [...this.select.options].map(option => option.value);
    if (targets.map(node => node.id).join() !== known.join()) {
      const before = this.select.value;
      this.select.replaceChildren();
      for (const node of targets) {
        const devices = room(node, facts.request);
        const option = element(this.select, 'option', '', `${node.id}: ${devices.length} free`);
        option.value = node.id;
        option.selected = node.id === before;
      }
    }
    if (this.root.open && !this.isMoving && this.select.value !== this.asked) {
      this.plan();
    }
    this.root.hidden = nodes.length < 2 && !this.isMoving;
    this.look();
  }

  look() {
    const isOpen = MOVABLE.includes(this.facts.state) && this.select.value !== '' && !this.isMoving;
    const isPlanned = this.planned === this.select.value;
    this.button.disabled = !isOpen || !isPlanned || (!this.accept.hidden && !this.box.checked);
    this.select.disabled = this.isMoving;
  }

  /** Say what would go along, before anything is done. */
  async plan() {
    const target = this.select.value;
    if (this.isMoving) {
      return;
    }
    this.asked = target;
    this.planned = '';
    if (target === '') {
      this.said.textContent = 'No other node has room now.';
      return;
    }
    this.accept.hidden = true;
    this.box.checked = false;
    this.said.textContent = 'Looking at what would move…';
    try {
      const body = { target, dry_run: true };
      const plan = await ask(this.base, sessionPath(this.facts, 'migrations'), 'POST', body);
      if (target !== this.select.value || this.isMoving) {
        return;
      }
      const lost = Object.entries(plan.lost);
      const size = `${plan.moves} variables, about ${amount(plan.bytes_estimate)}`;
      this.said.textContent = `${size}; it stands still for about ${duration(plan.downtime_s_estimate)} (estimate).`;
      for (const [name, why] of lost) {
        element(this.said, 'div', '', `does not survive the move: ${name}: ${why}`);
      }
      this.accept.hidden = lost.length === 0;
      this.planned = target;
    } catch (error) {
      this.said.textContent = error.message;
    }
    this.look();
  }

  async move() {
    const target = this.select.value;
    const { node } = this.facts;
    this.isMoving = true;
    this.ended.textContent = '';
    this.look();
    try {
      const body = { target, accept_loss: this.box.checked };
      let view = await ask(this.base, sessionPath(this.facts, 'migrations'), 'POST', body);
      this.migration = view.id;
      while (!ENDED.includes(view.phase) && !this.isDisposed) {
        this.said.textContent = `Moving to ${target}: ${PHASES[view.phase] ?? view.phase}.`;
        this.cancel.hidden = view.phase === 'cutover';
        await new Promise(resolve => setTimeout(resolve, STEP_MS));
        view = await ask(this.base, sessionPath(this.facts, 'migrations', view.id));
      }
      this.said.textContent = '';
      this.ended.textContent =
        view.phase === 'done'
          ? `It runs on ${target} now. It stood still for ${duration(view.downtime_s)}.`
          : `It still runs on ${node}. The move ${view.phase === 'failed' ? `failed: ${view.cause}` : 'was cancelled.'}`;
    } catch (error) {
      this.said.textContent = '';
      this.ended.textContent = error.message;
    }
    this.isMoving = false;
    this.cancel.hidden = true;
    this.accept.hidden = true;
    this.asked = this.planned = '';
    this.look();
  }

  async giveUp() {
    this.cancel.hidden = true;
    // Over already: how, is about to be said.
    await ask(this.base, sessionPath(this.facts, 'migrations', this.migration), 'DELETE').catch(() => null);
  }
}

function render({ model, el }) {
  const root = element(el, 'section', 'gpuaas-widget');
  root.setAttribute('aria-label', 'Devices of the remote session');
  const shown = element(root, 'div');
  const base = address();
  const menu = base === null ? null : new MoveMenu(root, base);
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
    draw(shown, facts, history);
  };
  note();
  const look = async () => {
    if (base === null || !isSeen || document.hidden || failures >= TRIES) {
      return;
    }
    try {
      const found = await news(base, facts);
      facts = found.facts;
      failures = 0;
      note();
      if (found.nodes.length > 0) {
        menu.update(facts, found.nodes);
      }
    } catch {
      failures += 1; // What is shown stays; a session that has ended has no news.
    }
  };
  const timer = setInterval(look, PAUSE_MS);
  const observer = new IntersectionObserver(entries => {
    const wasSeen = isSeen;
    isSeen = entries.some(entry => entry.isIntersecting);
    if (isSeen && !wasSeen) {
      look();
    }
  });
  observer.observe(root);
  return () => {
    clearInterval(timer);
    observer.disconnect();
    if (menu !== null) {
      menu.isDisposed = true;
    }
  };
}

export default { render };
