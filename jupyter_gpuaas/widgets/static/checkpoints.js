/**
 * The checkpoints of a session as Python gave them, newest first. In a page of a Jupyter server with our extension they
 * can be named, through that server; nothing else is requested from anywhere.
 */

function drawCheckpoint(list, checkpoint, trans, base) {
  const { short, name, cell, created_s, bytes, new_bytes, stall_s, lost } = checkpoint;
  const item = element(list, 'li', name ? 'gpuaas-named' : '');
  const title = name ? trans.__('%1 “%2” after cell %3', short, name, cell) : trans.__('%1 after cell %2', short, cell);
  element(item, 'span', '', title);
  const when = new Date(1000 * created_s).toLocaleTimeString();
  const costs = trans.__(
    '%1; %2, %3 new; held the next cell up for %4',
    when,
    amount(trans, bytes),
    amount(trans, new_bytes),
    duration(trans, stall_s)
  );
  element(item, 'div', 'gpuaas-quiet', costs);
  for (const [each, why] of Object.entries(lost)) {
    element(item, 'div', 'gpuaas-quiet', trans.__('not restorable: %1: %2', each, why));
  }
  if (base !== null) {
    addNaming(item, checkpoint, trans, base);
  }
}

/** A button that makes room for a name, in place. */
function addNaming(item, checkpoint, trans, base) {
  const { id, short, name, session } = checkpoint;
  const acts = element(item, 'div', 'gpuaas-acts');
  const spoken = trans.__('Name checkpoint %1', name || short);
  const open = button(acts, trans.__('Name…'), () => edit(), spoken);
  const said = element(item, 'div', 'gpuaas-said');
  said.setAttribute('role', 'status');

  const close = () => {
    acts.replaceChildren(open);
    open.focus();
  };
  const save = async wanted => {
    said.textContent = '';
    if (wanted === name) {
      close();
      return;
    }
    try {
      const named = await ask(base, sessionPath(session, 'checkpoints', id), 'PATCH', { name: wanted });
      item.dispatchEvent(new CustomEvent('gpuaas-named', { bubbles: true, detail: { id, name: named.label } }));
    } catch (error) {
      said.textContent = error.message;
    }
  };
  const edit = () => {
    const form = document.createElement('form');
    form.className = 'gpuaas-acts';
    const field = element(form, 'input');
    field.value = name;
    field.setAttribute('aria-label', trans.__('Name of checkpoint %1', short));
    element(form, 'button', '', trans.__('Name it')).type = 'submit';
    button(form, trans.__('Cancel'), close);
    form.addEventListener('submit', event => {
      event.preventDefault();
      save(field.value.trim());
    });
    // The notebook around it has keys of its own for commands.
    form.addEventListener('keydown', event => {
      event.stopPropagation();
      if (event.key === 'Escape') {
        close();
      }
    });
    acts.replaceChildren(form);
    field.focus();
  };
}

function render({ model, el }) {
  const trans = translator();
  const base = address();
  const root = element(el, 'section', 'gpuaas-widget');
  root.setAttribute('aria-label', trans.__('Checkpoints of the remote session'));
  const { session, checkpoints } = model.get('facts');
  element(root, 'div', 'gpuaas-head', session);
  const list = element(root, 'ol');
  list.tabIndex = 0; // It scrolls.
  const draw = () => {
    list.replaceChildren();
    for (const each of [...checkpoints].reverse()) {
      drawCheckpoint(list, each, trans, base);
    }
  };
  list.addEventListener('gpuaas-named', ({ detail: { id, name } }) => {
    const place = checkpoints.findIndex(each => each.id === id);
    checkpoints[place] = { ...checkpoints[place], name };
    draw();
    list.children[checkpoints.length - 1 - place].querySelector('button').focus();
  });
  draw();
}

export default { render };
