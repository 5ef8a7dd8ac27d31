/** Ask for devices: for the notebook in front, or for a new one. */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Dialog, showDialog } from '@jupyterlab/apputils';
import type { NotebookPanel } from '@jupyterlab/notebook';

import { trying } from '../acts/tell';
import type { IResourceRequest } from '../api/types';
import { OwnDialog } from '../migrate/own_dialog';
import type { IGpuaas } from '../tokens';
import { ChooseBody } from './body';
import { choiceOf, keepChoice } from './choice';
import { ANY, isAsWanted } from './free';

const KERNEL = 'remote_gpu';

async function ask(
  gpuaas: IGpuaas,
  before: IResourceRequest,
  okLabel: string
): Promise<IResourceRequest | null> {
  const watched = gpuaas.feed.watch();
  try {
    const { button, value } = await new OwnDialog({
      title: gpuaas.words.trans.__('Devices for this notebook'),
      body: new ChooseBody(gpuaas, before),
      buttons: [Dialog.cancelButton(), Dialog.okButton({ label: okLabel })],
      focusNodeSelector: 'select'
    }).launch();
    return button.accept ? value : null;
  } finally {
    watched.dispose();
  }
}

/** For the notebook in front. A session that it has already is kept, unless the user ends it for the new devices. */
export async function chooseDevices(gpuaas: IGpuaas, panel: NotebookPanel): Promise<void> {
  const { trans } = gpuaas.words;
  const request = await ask(gpuaas, choiceOf(panel) ?? ANY, trans.__('Choose'));
  if (request === null) {
    return;
  }
  await trying(async () => {
    await gpuaas.client.choose(panel.context.path, { request, session: null });
    keepChoice(panel, request);
    const attachment = gpuaas.attachment(panel);
    if (attachment.kernel?.remote !== true) {
      await panel.sessionContext.changeKernel({ name: KERNEL });
      return;
    }
    const session = gpuaas.store.state.sessions.get(attachment.sessionId);
    if (session === undefined || isAsWanted(session.request, request)) {
      return;
    }
    const { button } = await showDialog({
      title: trans.__('Begin anew on the new devices?'),
      body: trans.__(
        'The session that runs has other devices. To change them, it is ended, and its variables are gone; its checkpoints stay. Otherwise the choice counts from the next session on.'
      ),
      buttons: [
        Dialog.cancelButton({ label: trans.__('Keep it running') }),
        Dialog.warnButton({ label: trans.__('End it and begin anew') })
      ]
    });
    if (button.accept) {
      await gpuaas.client.release(session.id);
      await panel.sessionContext.changeKernel({ name: KERNEL });
    }
  });
}

/** For a new notebook in a folder, which is opened with a session on these devices. */
export async function launchNotebook(
  app: JupyterFrontEnd,
  gpuaas: IGpuaas,
  cwd: string
): Promise<void> {
  const request = await ask(gpuaas, ANY, gpuaas.words.trans.__('Create'));
  if (request === null) {
    return;
  }
  await trying(async () => {
    const { contents } = app.serviceManager;
    const { path } = await contents.newUntitled({ path: cwd, type: 'notebook' });
    await gpuaas.client.choose(path, { request, session: null });
    const panel = (await app.commands.execute('docmanager:open', {
      path,
      factory: 'Notebook',
      kernel: { name: KERNEL }
    })) as NotebookPanel | undefined;
    if (panel) {
      await panel.context.ready;
      keepChoice(panel, request);
    }
  });
}
