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
/** So many of these in a row may fail. */
const MISSES = 60;
const MOVABLE = ['idle', 'busy'];
const ENDED = ['done', 'failed', 'cancelled'];

/** What a session is in, in words. */
function stateWords(trans, { state, queue_place, node }) {
  const names = {
    queued: trans.__('waits for a device'),
    starting: trans.__('starting'),
    idle: trans.__('idle'),
    busy: trans.__('busy'),
    suspended: trans.__('suspended until its turn comes'),
    migrating: trans.__('moving'),
    parked: trans.__('parked'),
    lost: trans.__('its node is lost'),
    restoring: trans.__('coming back'),
    closing: trans.__('ending'),
    closed: trans.__('ended'),
    failed: trans.__('failed')
  };
  const name = names[state] ?? state;
  if (queue_place) {
    return trans.__('%1, place %2 in the queue', name, queue_place);
  }
  return node ? trans.__('%1 on %2', name, node) : name;
}

/** What a phase of a move does. */
function phaseWords(trans, { phase, target }) {
  const steps = {
    reserve: trans.__('Making room on %1', target),
    pre_copy: trans.__('Copying while you work'),
    quiesce: trans.__('Letting the cell that runs come to its end'),
    stop_copy: trans.__('Copying the last changes'),
    restore: trans.__('Making the variables on %1', target),
    verify: trans.__('Handing over'),
    cutover: trans.__('Beginning on %1', target)
  };
  return steps[phase] ?? phase;
}

function clock(time_s) {
  return new Date(1000 * time_s).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
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

function draw(root, facts, history, trans) {
  root.replaceChildren();
  element(root, 'div', 'gpuaas-head', facts.name);
  const state = element(root, 'div', '', stateWords(trans, facts));
  state.setAttribute('role', 'status');
  if (facts.cause) {
    element(root, 'div', 'gpuaas-quiet', facts.cause);
  }
  if (facts.node) {
    for (const words of held(trans, facts)) {
      element(root, 'div', 'gpuaas-quiet', words);
    }
  }
  for (const device of facts.devices) {
    const row = element(root, 'div', 'gpuaas-device');
    // Its size is told beside the meter.
    const name = trans.__('%1 %2', device.id, device.label.replace(/\s+\(.*\)$/, ''));
    const part = Number(device.share.toPrecision(2));
    element(row, 'span', '', device.share < 1 ? trans.__('%1 of %2', part, name) : name);
    const share = device.memory_bytes > 0 ? Math.min(1, device.used_bytes / device.memory_bytes) : 0;
    const words = trans.__('%1 of %2', amount(trans, device.used_bytes), amount(trans, device.memory_bytes));
    const meter = element(row, 'div', 'gpuaas-meter');
    meter.setAttribute('role', 'meter');
    meter.setAttribute('aria-label', trans.__('Memory of %1', device.id));
    meter.setAttribute('aria-valuemin', '0');
    meter.setAttribute('aria-valuemax', String(device.memory_bytes));
    meter.setAttribute('aria-valuenow', String(device.used_bytes));
    meter.setAttribute('aria-valuetext', words);
    element(meter, 'div', 'gpuaas-fill').style.width = `${(100 * share).toFixed(1)}%`;
    const percent = (100 * device.utilisation).toFixed(0);
    const full = device.utilisation >= 0 ? trans.__('%1, %2 % busy', words, percent) : words;
    element(row, 'span', 'gpuaas-quiet', full);
    line(row, history.get(device.id) ?? []);
  }
}

/** Since when the devices have been held, what ends that, and how much was used: a sentence each. */
function held(trans, { since_s, device_s, parks_s, ends_s }) {
  const until = parks_s
    ? trans.__('until %1, when it is parked if it stays idle', clock(parks_s))
    : ends_s
      ? trans.__('until %1, when it is ended if nobody attaches', clock(ends_s))
      : trans.__('until it is parked or released');
  const used = trans.__('%1 device-hours used', (device_s / 3600).toFixed(device_s < 360 ? 3 : 2));
  return [since_s ? trans.__('held since %1, %2', clock(since_s), until) : trans.__('held %1', until), used];
}

async function news(base, facts) {
  const service = await ask(base, 'service');
  if (service.state !== 'ready') {
    return { facts, nodes: [] }; // Looking starts nothing.
  }
  const [view, nodes] = await Promise.all([ask(base, sessionPath(facts.id)), ask(base, 'v1/nodes')]);
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
      utilisation: samples.get(each.id)?.utilisation ?? -1,
      share: session.lease.share
    }));
  const { state, cause, queue_place, request, parks_s, ends_s } = session;
  const account = { since_s: session.devices_since_s, device_s: view.device_seconds, parks_s, ends_s };
  const place = { node: session.lease?.node_id ?? '', devices };
  return { facts: { ...facts, state, cause, queue_place, request, ...account, ...place }, nodes };
}

/** Slack for sums of parts, as the service has it. */
const ATOM = 1e-6;

/** Devices of a node that would do for the session, and have room for it: all of each, or the part that it wants. */
function room(node, { kind, memory_bytes, devices, share }) {
  const free = node.devices.filter(
    each =>
      (node.used[each.id] ?? 0) + share <= 1 + ATOM &&
      (kind === null || each.kind === kind) &&
      each.memory_bytes >= memory_bytes
  );
  return node.state === 'up' && free.length >= devices ? free : [];
}

/** What there is for the session on a node. */
function roomWords(trans, node, request) {
  const { length } = room(node, request);
  return request.share < 1
    ? trans._n('%2: room on %1 device', '%2: room on %1 devices', length, node.id)
    : trans._n('%2: %1 device free', '%2: %1 devices free', length, node.id);
}

/** The menu that moves the session; it stays as it is while what is above it is drawn again. */
class MoveMenu {
  constructor(parent, base, trans) {
    this.base = base;
    this.trans = trans;
    this.root = element(parent, 'details', 'gpuaas-menu');
    this.root.hidden = true;
    element(this.root, 'summary', '', trans.__('Move to another node…'));
    const line = element(this.root, 'div', 'gpuaas-acts');
    this.select = element(line, 'select');
    this.select.setAttribute('aria-label', trans.__('Node to move to'));
    this.button = button(line, trans.__('Move'), () => this.move());
    this.cancel = button(line, trans.__('Cancel the move'), () => this.giveUp());
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
    element(this.accept, 'span', '', trans.__('Move it all the same'));
    this.root.addEventListener('toggle', () => this.root.open && this.plan());
    this.select.addEventListener('change', () => this.plan());
    this.box.addEventListener('change', () => this.look());
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
        const option = element(this.select, 'option', '', roomWords(this.trans, node, facts.request));
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
    const { trans } = this;
    const target = this.select.value;
    if (this.isMoving) {
      return;
    }
    this.asked = target;
    this.planned = '';
    if (target === '') {
      this.said.textContent = trans.__('No other node has room for it now.');
      return;
    }
    this.accept.hidden = true;
    this.box.checked = false;
    this.said.textContent = trans.__('Looking at what would move…');
    try {
      const body = { target, dry_run: true };
      const plan = await ask(this.base, sessionPath(this.facts.id, 'migrations'), 'POST', body);
      if (target !== this.select.value || this.isMoving) {
        return;
      }
      const lost = Object.entries(plan.lost);
      this.said.textContent = trans._n(
        '%1 variable moves, about %2; it stands still for about %3 (estimate).',
        '%1 variables move, about %2; it stands still for about %3 (estimate).',
        plan.moves,
        amount(trans, plan.bytes_estimate),
        duration(trans, plan.downtime_s_estimate)
      );
      for (const [name, why] of lost) {
        element(this.said, 'div', '', trans.__('does not survive the move: %1: %2', name, why));
      }
      this.accept.hidden = lost.length === 0;
      this.planned = target;
    } catch (error) {
      this.said.textContent = error.message;
    }
    this.look();
  }

  async move() {
    const { trans } = this;
    const target = this.select.value;
    const { node } = this.facts;
    this.isMoving = true;
    this.misses = 0;
    this.ended.textContent = '';
    this.look();
    try {
      const body = { target, accept_loss: this.box.checked };
      let view = await ask(this.base, sessionPath(this.facts.id, 'migrations'), 'POST', body);
      this.migration = view.id;
      while (!ENDED.includes(view.phase) && !this.isDisposed) {
        this.said.textContent = phaseWords(trans, view);
        this.cancel.hidden = view.phase === 'cutover';
        await new Promise(resolve => setTimeout(resolve, STEP_MS));
        view = await this.followed(view);
      }
      this.said.textContent = '';
      this.ended.textContent = ending(trans, view, node, target);
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

  /** How far the move is now. A Jupyter server that is away for a while does not end it. */
  async followed(view) {
    try {
      const next = await ask(this.base, sessionPath(this.facts.id, 'migrations', view.id));
      this.misses = 0;
      return next;
    } catch (error) {
      this.misses += 1;
      if (this.misses > MISSES) {
        throw error;
      }
      return view;
    }
  }

  async giveUp() {
    this.cancel.hidden = true;
    // Over already: how, is about to be said.
    await ask(this.base, sessionPath(this.facts.id, 'migrations', this.migration), 'DELETE').catch(() => null);
  }
}

/** How a move ended, and where the session is now. */
function ending(trans, { phase, downtime_s, cause }, node, target) {
  switch (phase) {
    case 'done':
      return trans.__('It runs on %1 now. It stood still for %2.', target, duration(trans, downtime_s));
    case 'failed':
      return trans.__('It still runs on %1. The move failed: %2', node, cause);
    default:
      return trans.__('It still runs on %1. The move was cancelled.', node);
  }
}

function render({ model, el }) {
  const trans = translator();
  const root = element(el, 'section', 'gpuaas-widget');
  root.setAttribute('aria-label', trans.__('Devices of the remote session'));
  const shown = element(root, 'div');
  const base = address();
  const menu = base === null ? null : new MoveMenu(root, base, trans);
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
    draw(shown, facts, history, trans);
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
      failures = 0;
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
