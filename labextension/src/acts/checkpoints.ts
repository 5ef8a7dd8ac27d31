/** What a person can do with checkpoints: take, restore, name, forget. */

import { Dialog, InputDialog, showDialog } from '@jupyterlab/apputils';
import { UUID } from '@lumino/coreutils';

import type { IRestoreReport } from '../api/types';
import type { IGpuaas } from '../tokens';
import type { ICheckpointRef } from '../words/trans';
import { amount, duration, shortId } from '../words/amounts';
import { titleOf } from './sessions';
import { telling, trying } from './tell';

/** Takes a checkpoint, under a name if the user gives one. */
export async function takeCheckpoint(gpuaas: IGpuaas, session: string): Promise<void> {
  const { trans } = gpuaas.words;
  const { button, value } = await InputDialog.getText({
    title: trans.__('Checkpoint of %1', titleOf(gpuaas, session)),
    label: trans.__('Name (may be empty)'),
    placeholder: trans.__('before the long run'),
    okLabel: trans.__('Take')
  });
  if (!button.accept) {
    return;
  }
  await telling(
    trans.__('Taking a checkpoint when the cells that run have ended…'),
    () => gpuaas.client.takeCheckpoint(session, (value ?? '').trim()),
    taken => {
      const size = amount(trans, taken.host_bytes + taken.device_bytes);
      const took = duration(trans, taken.capture_s);
      return taken.label === ''
        ? trans.__('Checkpoint taken after cell %1: %2 in %3.', taken.cell, size, took)
        : trans.__(
            'Checkpoint “%1” taken after cell %2: %3 in %4.',
            taken.label,
            taken.cell,
            size,
            took
          );
    }
  );
}

/** Restores a checkpoint, after asking: into the session itself, or into a new one beside it. */
export async function restore(
  gpuaas: IGpuaas,
  session: string,
  checkpoint: ICheckpointRef
): Promise<void> {
  const { words } = gpuaas;
  const { trans } = words;
  const title = titleOf(gpuaas, session);
  const here = trans.__('Restore here');
  const beside = trans.__('Begin a new session with it');
  const { button } = await showDialog({
    title: trans.__('Restore %1?', words.checkpoint(checkpoint)),
    body: trans.__(
      'Restored here, the variables of %1 become those of the checkpoint, and what they are now is left to the checkpoints after it. The cells of the notebook stay as they are.',
      title
    ),
    buttons: [
      Dialog.cancelButton(),
      Dialog.okButton({ label: beside, accept: true, displayType: 'default' }),
      Dialog.okButton({ label: here })
    ]
  });
  if (!button.accept) {
    return;
  }
  const isNew = button.label === beside;
  const name = gpuaas.store.state.sessions.get(session)?.name ?? session;
  await telling(
    trans.__('Restoring %1…', words.checkpoint(checkpoint)),
    () =>
      gpuaas.client.restore(
        session,
        checkpoint.id,
        isNew ? `${name} (${shortId(checkpoint.id)} ${UUID.uuid4().slice(0, 4)})` : null
      ),
    report => restoredWords(gpuaas, report)
  );
  await gpuaas.feed.refresh();
}

function restoredWords(gpuaas: IGpuaas, report: IRestoreReport): string {
  const { trans } = gpuaas.words;
  const lost = Object.keys(report.lost);
  const count = report.names;
  const cell = report.checkpoint.cell;
  const what = report.session
    ? trans._n(
        'A new session begins with %1 variable, as after cell %2.',
        'A new session begins with %1 variables, as after cell %2.',
        count,
        cell
      )
    : trans._n(
        '%1 variable was restored, as after cell %2.',
        '%1 variables were restored, as after cell %2.',
        count,
        cell
      );
  return lost.length === 0
    ? what
    : trans.__('%1 These names were not restored: %2.', what, lost.join(', '));
}

/** Gives a checkpoint a name, another one, or none. Named ones are kept whatever their age and number. */
export async function nameCheckpoint(
  gpuaas: IGpuaas,
  session: string,
  checkpoint: ICheckpointRef
): Promise<void> {
  const { words } = gpuaas;
  const { trans } = words;
  const before = checkpoint.name;
  const { button, value } = await InputDialog.getText({
    title: trans.__('A name for %1', words.checkpoint(checkpoint)),
    label: trans.__('Name (may be empty)'),
    placeholder: trans.__('before the long run'),
    text: before,
    okLabel: trans.__('Name it')
  });
  const name = (value ?? '').trim();
  if (button.accept && name !== before) {
    await trying(() => gpuaas.client.name(session, checkpoint.id, name));
  }
}

/** Removes a checkpoint, after asking. */
export async function forget(
  gpuaas: IGpuaas,
  session: string,
  checkpoint: ICheckpointRef
): Promise<void> {
  const { words } = gpuaas;
  const { trans } = words;
  const { button } = await showDialog({
    title: trans.__('Forget %1?', words.checkpoint(checkpoint)),
    body: trans.__('It cannot be restored any more. Others are not touched.'),
    buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: trans.__('Forget') })]
  });
  if (button.accept) {
    await telling(
      trans.__('Removing %1…', words.checkpoint(checkpoint)),
      () => gpuaas.client.forget(session, checkpoint.id),
      () => trans.__('Removed: %1.', words.checkpoint(checkpoint))
    );
  }
}
