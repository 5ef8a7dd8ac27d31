/** Which cells' effects are lost with a node. Pure. */

/** The name of the error that answers a cell that was cut off. */
export const CUT_OFF = 'NodeLost';

export interface IRunCell {
  readonly id: string;
  readonly execution_count: number | null;
  /** Names of the errors among its outputs. */
  readonly errors: readonly string[];
}

/**
 * Cells to run again, in the order in which they had been run.
 *
 * @param cells - In the order of the document.
 * @param restored - The cell after which the checkpoint was taken that the session has come back with.
 */
export function lostCells(cells: readonly IRunCell[], restored: number): IRunCell[] {
  const isCut = (cell: IRunCell): boolean => cell.errors.includes(CUT_OFF);
  return cells
    .filter(
      cell => isCut(cell) || (cell.execution_count !== null && cell.execution_count > restored)
    )
    .sort((one, other) => order(one) - order(other));
}

/** A cell that was cut off before its count was known ran last. */
function order(cell: IRunCell): number {
  return cell.execution_count ?? Number.MAX_SAFE_INTEGER;
}
