import { missedCell } from '../../__tests__/facts';
import type { IMissedCell } from '../../api/types';
import { CUT_OFF, lostCells } from '../losses';

function cell(id: string, execution_count: number | null, ...errors: string[]) {
  return { id, execution_count, errors };
}

function told(restored_cell: number | null, restored_number = 100, cells: IMissedCell[] = []) {
  return { restored_cell, restored_number, cells };
}

describe('lostCells', () => {
  it('are those that ran after the checkpoint, in the order in which they ran', () => {
    const cells = [cell('c', 9), cell('a', 3), cell('b', 8), cell('never', null)];

    expect(lostCells(cells, told(7)).map(each => each.id)).toEqual(['b', 'c']);
  });

  it('have one that was cut off among them, last where its count is not known', () => {
    const cells = [cell('cut', null, CUT_OFF), cell('a', 8), cell('wrong', 2, 'ValueError')];

    expect(lostCells(cells, told(7)).map(each => each.id)).toEqual(['a', 'cut']);
  });

  it('are without those that were run again since', () => {
    const again = missedCell({ cell_id: 'a', number: 101, execution_count: 8 });

    expect(lostCells([cell('a', 8)], told(7, 100, [again]))).toEqual([]);
  });

  it('are none where the checkpoint is newer than all cells, or nothing was lost', () => {
    expect(lostCells([cell('a', 3)], told(3))).toEqual([]);
    expect(lostCells([cell('a', 3)], told(null))).toEqual([]);
  });
});
