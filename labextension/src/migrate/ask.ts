/** Ask where to move a session to, and begin. */

import { Dialog } from '@jupyterlab/apputils';

import type { IMigration } from '../api/types';
import type { IGpuaas } from '../tokens';
import { MoveBody } from './body';
import { OwnDialog } from './own_dialog';

/** The migration that has begun; null where the user has thought better of it. Raises Problem. */
export async function askAndMove(gpuaas: IGpuaas, session: string): Promise<IMigration | null> {
  const { trans } = gpuaas.words;
  const body = new MoveBody(gpuaas, session, isReady => {
    dialog.isAcceptable = isReady;
  });
  const dialog = new OwnDialog({
    title: trans.__('Move the session'),
    body,
    buttons: [Dialog.cancelButton(), Dialog.okButton({ label: trans.__('Move') })],
    focusNodeSelector: 'input:not(:disabled)'
  });
  dialog.isAcceptable = false;
  const watched = gpuaas.feed.watch();
  try {
    await gpuaas.feed.refreshSession(session);
    const { button, value } = await dialog.launch();
    if (!button.accept || value === null) {
      return null;
    }
    const migration = await gpuaas.client.migrate(session, value.target, value.acceptLoss);
    gpuaas.store.tell({ of: 'migration', migration });
    return migration;
  } finally {
    watched.dispose();
  }
}
