/** Which cells of a document lack what their session said meanwhile, and what becomes of it. Pure. */

import type { IMissedCell } from '../api/types';
import { same } from '../model/state';

/** What a document has of one cell. */
export interface IDocumentCell {
  readonly id: string;
  readonly execution_count: number | null;
  readonly outputs: ReadonlyArray<{ readonly [key: string]: unknown }>;
  /** Whether this page itself follows an execution of it. */
  readonly isFollowed: boolean;
}

export interface IFilling {
  readonly entry: IMissedCell;
  /** Whether it goes on, so that what comes has to be appended. */
  readonly goesOn: boolean;
}

/** What to put into the document, in the order in which the cells were run. */
export function fillings(
  document: ReadonlyMap<string, IDocumentCell>,
  missed: readonly IMissedCell[]
): IFilling[] {
  const found: IFilling[] = [];
  for (const entry of missed) {
    const cell = document.get(entry.cell_id);
    // A cell that this page runs gets its outputs from its own request.
    if (cell === undefined || cell.isFollowed || entry.dropped_bytes > 0) {
      continue;
    }
    const goesOn = entry.ended_s === null;
    const lacks =
      cell.execution_count !== entry.execution_count ||
      !same(plain(cell.outputs), plain(entry.outputs));
    // An aborted cell never ran: it has nothing to show, and what it showed before is the user's.
    const neverRan = entry.status === 'aborted' && entry.outputs.length === 0;
    if (goesOn || (lacks && !neverRan)) {
      found.push({ entry, goesOn });
    }
  }
  return found;
}

/** Outputs without what JupyterLab adds or leaves out as it likes: texts in one piece, no empty metadata. */
function plain(outputs: IDocumentCell['outputs']): unknown {
  return outputs.map(output => {
    const kept: { [key: string]: unknown } = {};
    for (const [key, value] of Object.entries(output)) {
      if (key === 'transient' || (key === 'metadata' && isEmpty(value))) {
        continue;
      }
      kept[key] = key === 'data' ? joinedAll(value) : joined(value);
    }
    return kept;
  });
}

function isEmpty(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.keys(value).length === 0;
}

/** The notebook format lets a text be a list of lines. */
function joined(value: unknown): unknown {
  return Array.isArray(value) && value.every(line => typeof line === 'string')
    ? value.join('')
    : value;
}

function joinedAll(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) {
    return value;
  }
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, joined(each)]));
}
