/** What the plugins share. */

import type { NotebookPanel } from '@jupyterlab/notebook';
import { Token } from '@lumino/coreutils';
import type { ISignal } from '@lumino/signaling';

import type { Client } from './api/client';
import type { Attachment } from './model/attachment';
import type { Feed } from './model/feed';
import type { Store } from './model/store';
import type { Preferences } from './preferences';
import type { Words } from './words/trans';

export interface IGpuaas {
  readonly client: Client;
  readonly store: Store;
  readonly feed: Feed;
  readonly words: Words;
  readonly preferences: Preferences;
  /** The notebook in front and its session have changed, or what is known of them. */
  readonly currentChanged: ISignal<IGpuaas, void>;
  /** Of the notebook in front; null where there is none. */
  readonly current: Attachment | null;
  readonly currentPanel: NotebookPanel | null;
  /** Which session a notebook's kernel stands for. */
  attachment(panel: NotebookPanel): Attachment;
  /** The open notebook of a session, if there is one. */
  panelOf(session: string): NotebookPanel | null;
}

export const IGpuaas = new Token<IGpuaas>(
  'jupyter-gpuaas:IGpuaas',
  'What is known of remote sessions, and how to ask for more.'
);
