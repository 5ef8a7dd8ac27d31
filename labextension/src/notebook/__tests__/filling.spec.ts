import { missedCell } from '../../__tests__/facts';
import { fillings, type IDocumentCell } from '../filling';

const PRINTED = { output_type: 'stream', name: 'stdout', text: 'a\nb\n' };

function documentOf(...cells: Partial<IDocumentCell>[]): Map<string, IDocumentCell> {
  return new Map(
    cells.map(cell => {
      const whole = { id: 'c1', execution_count: null, outputs: [], isFollowed: false, ...cell };
      return [whole.id, whole];
    })
  );
}

describe('fillings', () => {
  it('has a cell that came to its end while nobody looked', () => {
    const entry = missedCell({ outputs: [PRINTED] });

    expect(fillings(documentOf({}), [entry])).toEqual([{ entry, goesOn: false }]);
  });

  it('has nothing where the document has it all, however its texts are split', () => {
    const cell = { execution_count: 4, outputs: [{ ...PRINTED, text: ['a\n', 'b\n'] }] };

    expect(fillings(documentOf(cell), [missedCell({ outputs: [PRINTED] })])).toEqual([]);
  });

  it('looks past empty metadata and texts in lines within data', () => {
    const shown = { output_type: 'display_data', data: { 'text/html': '<b>\nx' }, metadata: {} };
    const saved = { output_type: 'display_data', data: { 'text/html': ['<b>\n', 'x'] } };

    const found = fillings(documentOf({ execution_count: 4, outputs: [saved] }), [
      missedCell({ outputs: [shown] })
    ]);

    expect(found).toEqual([]);
  });

  it('follows a cell that still runs, although nothing of it is missing yet', () => {
    const entry = missedCell({ ended_s: null, status: 'running', outputs: [] });

    expect(fillings(documentOf({ execution_count: 4 }), [entry])).toEqual([
      { entry, goesOn: true }
    ]);
  });

  it.each([
    ['that this page runs', { isFollowed: true }, {}],
    ['that is not in the document', { id: 'other' }, {}],
    ['whose outputs were too large to be told', {}, { dropped_bytes: 1e8 }],
    [
      'that never ran',
      { execution_count: 2, outputs: [PRINTED] },
      { status: 'aborted', outputs: [], execution_count: null }
    ]
  ] as const)('leaves a cell alone %s', (_, cell, facts) => {
    expect(fillings(documentOf(cell), [missedCell({ outputs: [PRINTED], ...facts })])).toEqual([]);
  });

  it('keeps the order in which cells were run', () => {
    const found = fillings(documentOf({ id: 'c1' }, { id: 'c2' }), [
      missedCell({ cell_id: 'c2' }),
      missedCell({ cell_id: 'c1' })
    ]);

    expect(found.map(each => each.entry.cell_id)).toEqual(['c2', 'c1']);
  });
});
