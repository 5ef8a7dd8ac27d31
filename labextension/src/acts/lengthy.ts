/** Notices of what takes long: how far it is, and a way to give it up until it is over. */

import { Notification } from '@jupyterlab/apputils';

import { wordsOf } from '../api/problem';
import type { IGpuaas } from '../tokens';
import { conclude, failure, tellFailure } from './tell';

/** JupyterLab shows a notice some time after it was asked to, and one that is changed before then may stay as it was. */
const SHOWN_MS = 1000;

export interface ILengthy<T> {
  /** What is being done, with how far it is; asked for again with each piece of news. */
  readonly doing: () => string;
  readonly work: () => Promise<T>;
  readonly done: (result: T) => string;
  readonly giveUp: {
    readonly caption: string;
    readonly act: () => Promise<unknown>;
    /** What is said when it was given up, and the work has ended for that. */
    readonly done: string;
  };
}

/** Do something that takes long, and say how it goes and went; null where it failed or was given up. */
export async function lengthy<T>(gpuaas: IGpuaas, what: ILengthy<T>): Promise<T | null> {
  let isGivenUp = false;
  const actions: Notification.IAction[] = [
    {
      label: gpuaas.words.trans.__('Cancel'),
      caption: what.giveUp.caption,
      callback: event => {
        event.preventDefault(); // The notice stays: it says what became of it.
        isGivenUp = true;
        what.giveUp.act().catch((error: unknown) => {
          isGivenUp = false;
          tellFailure(wordsOf(error));
        });
      }
    }
  ];
  let said = what.doing();
  const id = Notification.emit(said, 'in-progress', { autoClose: false, actions });
  const tell = (): void => {
    const message = what.doing();
    if (message !== said && !isGivenUp) {
      said = message;
      Notification.update({ id, message, actions });
    }
  };
  const timer = window.setTimeout(() => {
    tell();
    gpuaas.store.changed.connect(tell);
  }, SHOWN_MS);
  const end = (): void => {
    window.clearTimeout(timer);
    gpuaas.store.changed.disconnect(tell);
  };
  try {
    const result = await what.work();
    end();
    conclude(id, { message: what.done(result), type: 'success', actions: [], autoClose: 5000 });
    return result;
  } catch (error) {
    end();
    if (isGivenUp) {
      conclude(id, { message: what.giveUp.done, type: 'success', actions: [], autoClose: 5000 });
    } else {
      conclude(id, failure(wordsOf(error)));
    }
    return null;
  }
}
