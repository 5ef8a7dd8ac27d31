import { CUT_OFF, lostCells } from '../losses';

function cell(id: string, execution_count: number | null, ...errors: string[]) {
  return { id, execution_count, errors };
}

describe('lostCells', () => {
  it('are those that ran after the checkpoint, in the order in which they ran', () => {
    const found = lostCells([cell('c', 9), cell('a', 3), cell('b', 8), cell('never', null)], 7);

    expect(found.map(each => each.id)).toEqual(['b', 'c']);
  });

  it('have one that was cut off among them, last where its count is not known', () => {
    const found = lostCells(
      [cell('cut', null, CUT_OFF), cell('a', 8), cell('wrong', 2, 'ValueError')],
      7
    );

    expect(found.map(each => each.id)).toEqual(['a', 'cut']);
  });

  it('are none where the checkpoint is newer than all cells', () => {
    expect(lostCells([cell('a', 3)], 3)).toEqual([]);
  });
});
