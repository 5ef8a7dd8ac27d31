/** From a session to a notebook: open the one that it is of, or attach the one in front to it. */

import { Dialog, showDialog } from '@jupyterlab/apputils';
import { Notification } from '@jupyterlab/apputils';
import type { JupyterFrontEnd } from '@jupyterlab/application';

import type { IGpuaas } from '../tokens';
import { possiblePaths } from '../words/names';
import { titleOf } from './sessions';
import { trying } from './tell';

/** Opens the notebook of a session. */
export async function openNotebook(
  app: JupyterFrontEnd,
  gpuaas: IGpuaas,
  session: string
): Promise<void> {
  const open = gpuaas.panelOf(session);
  if (open !== null) {
    app.shell.activateById(open.id);
    return;
  }
  const name = gpuaas.store.state.sessions.get(session)?.name ?? '';
  const path = await trying(() => pathOf(gpuaas, name));
  if (path) {
    await app.commands.execute('docmanager:open', { path });
    return;
  }
  const { trans } = gpuaas.words;
  Notification.info(
    trans.__(
      '%1 has no notebook below this folder. Attach an open notebook to it, or use "jupyter gpuaas attach" in a terminal.',
      titleOf(gpuaas, session)
    )
  );
}

/** The path whose notebook's session is called so, by the Jupyter server's own rule; null where there is none. */
async function pathOf(gpuaas: IGpuaas, name: string): Promise<string | null> {
  for (const path of possiblePaths(name)) {
    const { name: called } = await gpuaas.client.chosen(path);
    if (called === name) {
      return path;
    }
  }
  return null;
}

/** Makes the notebook in front one of this session, whatever it has now; asks before. */
export async function attach(gpuaas: IGpuaas, session: string): Promise<void> {
  const { words, currentPanel, current, client } = gpuaas;
  const { trans } = words;
  if (currentPanel === null || current === null) {
    Notification.info(trans.__('Open a notebook first: it is attached to the session then.'));
    return;
  }
  const title = titleOf(gpuaas, session);
  const { button } = await showDialog({
    title: trans.__('Attach this notebook to %1?', title),
    body: trans.__(
      'Its cells then run in that session. The session that it has now goes on without it, and stays in the list.'
    ),
    buttons: [Dialog.cancelButton(), Dialog.okButton({ label: trans.__('Attach') })]
  });
  if (!button.accept) {
    return;
  }
  await trying(async () => {
    const { sessionContext, context } = currentPanel;
    const kernel = sessionContext.session?.kernel;
    if (kernel && current.kernel?.remote) {
      await client.detach(kernel.id);
    }
    await client.choose(context.path, { request: null, session });
    await sessionContext.changeKernel({ name: 'remote_gpu' });
  });
}
