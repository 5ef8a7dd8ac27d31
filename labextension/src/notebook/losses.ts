/** Which cells' effects are lost with the host of a session. Pure. */

import type { IMissed } from '../api/types';

/** The name of the error that answers a cell that was cut off. */
export const CUT_OFF = 'NodeLost';

export interface IRunCell {
  readonly id: string;
  readonly execution_count: number | null;
  /** Names of the errors among its outputs. */
  readonly errors: readonly string[];
}

type Told = Pick<IMissed, 'restored_cell' | 'restored_number' | 'cells'>;

/**
 * Cells to run again, in the order in which they had been run.
 *
 * @param cells - In the order of the document.
 * @param told - What the journal says. A cell that it does not know was run before the journal began anew.
 */
export function lostCells(cells: readonly IRunCell[], told: Told): IRunCell[] {
  const { restored_cell: restored, restored_number } = told;
  if (restored === null) {
    return [];
  }
  const entries = new Map(told.cells.map(entry => [entry.cell_id, entry]));
  const isLost = (cell: IRunCell): boolean => {
    const entry = entries.get(cell.id);
    if (entry !== undefined && entry.number > restored_number) {
      return false; // It was run again since.
    }
    const count = entry?.execution_count ?? cell.execution_count;
    return cell.errors.includes(CUT_OFF) || (count !== null && count > restored);
  };
  return cells.filter(isLost).sort((one, other) => order(one) - order(other));
}

/** A cell that was cut off before its count was known ran last. */
function order(cell: IRunCell): number {
  return cell.execution_count ?? Number.MAX_SAFE_INTEGER;
}
