/** What a person can do with checkpoints: take, restore, name, forget. */

import { Dialog, InputDialog, showDialog } from '@jupyterlab/apputils';
import { UUID } from '@lumino/coreutils';

import { Problem } from '../api/problem';
import type { IRestoreReport, SessionState } from '../api/types';
import { isLive } from '../model/select';
import type { IGpuaas } from '../tokens';
import { amount, duration, shortId } from '../words/amounts';
import { sessionTitle } from '../words/names';
import type { ICheckpointRef, Words } from '../words/trans';
import { type ILengthy, lengthy } from './lengthy';
import { titleOf } from './sessions';
import { telling, trying } from './tell';

/** States of a session that has not begun yet. */
const BEGINNING: ReadonlySet<SessionState> = new Set<SessionState>([
  'queued',
  'starting',
  'restoring'
]);

/** What the kernel of a session does between its cells, in words. */
interface IInSession<T> {
  /** Said while cells run that are waited for. */
  readonly waiting: string;
  readonly doing: string;
  readonly work: (request: string) => Promise<T>;
  readonly done: (result: T) => string;
  readonly givenUp: Pick<ILengthy<T>['giveUp'], 'caption' | 'done'>;
}

/** Let a session do it: says how far it is, and can be given up. */
async function inSession<T>(
  gpuaas: IGpuaas,
  session: string,
  { waiting, doing, work, done, givenUp }: IInSession<T>
): Promise<void> {
  const request = UUID.uuid4();
  await lengthy(gpuaas, {
    doing: () => withProgress(gpuaas, session, isBusy(gpuaas, session) ? waiting : doing),
    work: () => work(request),
    done,
    giveUp: { ...givenUp, act: () => gpuaas.client.giveUp(session, request) }
  });
}

/** What the user calls a checkpoint; empty for no name, null where they have thought better of it. */
async function askName(
  { trans }: Words,
  title: string,
  okLabel: string,
  before = ''
): Promise<string | null> {
  const { button, value } = await InputDialog.getText({
    title,
    label: trans.__('Name (may be empty)'),
    placeholder: trans.__('before the long run'),
    text: before,
    okLabel
  });
  return button.accept ? (value ?? '').trim() : null;
}

/** Takes a checkpoint, under a name if the user gives one. */
export async function takeCheckpoint(gpuaas: IGpuaas, session: string): Promise<void> {
  const { words } = gpuaas;
  const { trans } = words;
  const title = trans.__('Checkpoint of %1', titleOf(gpuaas, session));
  const name = await askName(words, title, trans.__('Take'));
  if (name === null) {
    return;
  }
  await inSession(gpuaas, session, {
    waiting: trans.__('Taking a checkpoint when the cells that run have ended…'),
    doing: trans.__('Taking a checkpoint…'),
    work: request => gpuaas.client.takeCheckpoint(session, name, request),
    done: taken => {
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
    },
    givenUp: {
      caption: trans.__('Take no checkpoint'),
      done: trans.__('No checkpoint was taken.')
    }
  });
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
  if (button.label === beside) {
    await restoreBeside(gpuaas, session, checkpoint);
  } else {
    await restoreHere(gpuaas, session, checkpoint);
  }
  await gpuaas.feed.refresh();
}

async function restoreHere(
  gpuaas: IGpuaas,
  session: string,
  checkpoint: ICheckpointRef
): Promise<void> {
  const { words } = gpuaas;
  const { trans } = words;
  const named = words.checkpoint(checkpoint);
  await inSession(gpuaas, session, {
    waiting: trans.__('Restoring %1 when the cells that run have ended…', named),
    doing: trans.__('Restoring %1…', named),
    work: request => gpuaas.client.restore(session, checkpoint.id, request),
    done: report => restoredWords(gpuaas, report),
    givenUp: {
      caption: trans.__('The variables stay as they are'),
      done: trans.__('Nothing was restored. The variables are as they were.')
    }
  });
}

/** The new session may have to wait for a device first; giving up means that it ends. */
async function restoreBeside(
  gpuaas: IGpuaas,
  session: string,
  checkpoint: ICheckpointRef
): Promise<void> {
  const { client, feed, store, words } = gpuaas;
  const { trans } = words;
  const name = store.state.sessions.get(session)?.name ?? session;
  const newName = `${name} (${shortId(checkpoint.id)} ${UUID.uuid4().slice(0, 4)})`;
  const title = sessionTitle(newName);
  let begun = '';
  await lengthy(gpuaas, {
    doing: () => {
      const made = store.state.sessions.get(begun);
      if (made === undefined) {
        return trans.__('Beginning the session %1…', title);
      }
      if (made.state === 'queued') {
        return made.queue_place > 0
          ? trans.__('The session %1 waits for a device: place %2.', title, made.queue_place)
          : trans.__('The session %1 waits for a device.', title);
      }
      return withProgress(
        gpuaas,
        begun,
        trans.__('Restoring %1 into the session %2…', words.checkpoint(checkpoint), title)
      );
    },
    work: async () => {
      const report = await client.beginFrom(session, checkpoint.id, newName);
      begun = report.session;
      await feed.refreshSession(begun);
      await hasBegun(gpuaas, begun);
      return report;
    },
    done: report => restoredWords(gpuaas, report),
    giveUp: {
      caption: trans.__('End the new session'),
      act: () => client.release(begun === '' ? newName : begun),
      done: trans.__('The new session was ended. Its checkpoint stays.')
    }
  });
}

/** Wait until a session runs; raises Problem where it will not. */
async function hasBegun(gpuaas: IGpuaas, id: string): Promise<void> {
  const { store, words } = gpuaas;
  return new Promise((resolve, reject) => {
    const look = (): void => {
      const { sessions, gone } = store.state;
      const session = sessions.get(id);
      if (gone.has(id) || (session !== undefined && !isLive(session))) {
        store.changed.disconnect(look);
        const cause = session?.cause || words.trans.__('The new session has ended.');
        reject(new Problem(cause, '', 0, 'SessionEnded'));
      } else if (session !== undefined && !BEGINNING.has(session.state)) {
        store.changed.disconnect(look);
        resolve();
      }
    };
    store.changed.connect(look);
    look();
  });
}

function isBusy(gpuaas: IGpuaas, session: string): boolean {
  return gpuaas.store.state.sessions.get(session)?.state === 'busy';
}

/** What is being done, with how far the session says that it is. */
function withProgress(gpuaas: IGpuaas, session: string, doing: string): string {
  const progress = gpuaas.store.state.checkpoints.get(session)?.progress ?? '';
  return progress === '' ? doing : gpuaas.words.trans.__('%1 %2.', doing, progress);
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
  { words, client }: IGpuaas,
  session: string,
  checkpoint: ICheckpointRef
): Promise<void> {
  const { trans } = words;
  const title = trans.__('A name for %1', words.checkpoint(checkpoint));
  const name = await askName(words, title, trans.__('Name it'), checkpoint.name);
  if (name !== null && name !== checkpoint.name) {
    await trying(() => client.name(session, checkpoint.id, name));
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
