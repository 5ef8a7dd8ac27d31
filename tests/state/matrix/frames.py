"""pandas and polars: sharing, copy on write, and what a frame is besides its values."""

from __future__ import annotations

from tests.state.cases import EXACT, HONEST, RIGHT, case

CASES = [
    case(
        "frame",
        "DataFrame over an array (copy=False)",
        """
        import numpy as np, pandas as pd
        matrix = np.zeros((4, 2))
        frame = pd.DataFrame(matrix, columns=['a', 'b'], copy=False)
        """,
        """
        matrix[1, 1] = 7
        assert frame.loc[1, 'b'] == 7 and np.shares_memory(matrix, frame.to_numpy())
        """,
        EXACT,
    ),
    case(
        "frame",
        "Series over an array, array over a Series",
        """
        import numpy as np, pandas as pd
        values = np.arange(5.0)
        series = pd.Series(values, copy=False)
        back = series.to_numpy()
        """,
        """
        values[2] = -3
        assert series[2] == -3 and back[2] == -3
        series[0] = 9
        assert series[0] == 9
        """,
        EXACT,
        strict="assert np.shares_memory(back, values)",
    ),
    case(
        "frame",
        "copy on write: slice, column and alias",
        """
        import pandas as pd
        frame = pd.DataFrame({'a': [1, 2, 3], 'b': [4.0, 5.0, 6.0]})
        lazy = frame[:]
        column = frame['a']
        alias = frame
        """,
        """
        frame.loc[0, 'a'] = 99
        assert alias is frame and alias.loc[0, 'a'] == 99
        assert lazy.loc[0, 'a'] == 1 and column[0] == 1
        column[1] = -1
        assert frame.loc[1, 'a'] == 2 and lazy.loc[1, 'a'] == 2
        lazy.loc[2, 'b'] = 0
        assert frame.loc[2, 'b'] == 6.0
        """,
        EXACT,
    ),
    case(
        "frame",
        "copy on write: written before the capture",
        """
        import pandas as pd
        frame = pd.DataFrame({'a': range(1000), 'b': 0.0})
        lazy = frame[:]
        # %%
        lazy.loc[0, 'b'] = 5.0
        # %%
        third = lazy.iloc[:10]
        """,
        """
        assert frame.loc[0, 'b'] == 0.0 and lazy.loc[0, 'b'] == 5.0
        third.loc[0, 'b'] = 6.0
        assert lazy.loc[0, 'b'] == 5.0 and frame.loc[0, 'b'] == 0.0
        frame.loc[1, 'a'] = -1
        assert lazy.loc[1, 'a'] == 1 and third.loc[1, 'a'] == 1
        """,
        EXACT,
    ),
    case(
        "frame",
        "a read-only view handed out stays read-only",
        """
        import pandas as pd
        frame = pd.DataFrame({'a': [1.0, 2.0, 3.0]})
        raw = frame['a'].to_numpy()
        """,
        """
        assert not raw.flags.writeable
        frame.loc[0, 'a'] = 50
        assert frame.loc[0, 'a'] == 50
        """,
        EXACT,
    ),
    case(
        "frame",
        "two frames with one index object",
        """
        import pandas as pd
        index = pd.Index(['x', 'y'], name='key')
        left, right = pd.DataFrame({'a': [1, 2]}, index=index), pd.DataFrame({'b': [3, 4]}, index=index)
        """,
        """
        assert left.index is right.index or left.index.is_(right.index)
        assert left.index.name == 'key' and left.join(right).loc['y'].tolist() == [2, 4]
        """,
        EXACT,
    ),
    case(
        "frame",
        "MultiIndex, categories, time zones, periods, intervals",
        """
        import pandas as pd
        frame = pd.DataFrame(
            {
                'grade': pd.Categorical(['lo', 'hi', 'lo'], categories=['lo', 'mid', 'hi'], ordered=True),
                'when': pd.date_range('2024-03-30', periods=3, tz='Europe/Berlin', freq='D'),
                'month': pd.period_range('2024-01', periods=3, freq='M'),
                'bin': pd.interval_range(0, 3),
                'count': pd.array([1, None, 3], dtype='Int64'),
                'text': pd.array(['a', None, 'c'], dtype='string'),
            },
            index=pd.MultiIndex.from_tuples([('a', 1), ('a', 2), ('b', 1)], names=['L', 'N']),
        )
        frame.attrs['source'] = ['sensor']
        """,
        """
        assert frame['grade'].cat.ordered and frame['grade'].min() == 'lo' and frame['grade'].cat.categories[1] == 'mid'
        assert str(frame['when'].dt.tz) == 'Europe/Berlin' and frame['when'].iloc[2].utcoffset().seconds == 7200
        assert str(frame['month'].dtype) == 'period[M]' and frame['bin'].iloc[1].closed == 'right'
        assert frame['count'].isna().tolist() == [False, True, False] and frame['count'].dtype == 'Int64'
        assert frame['text'].dtype == 'string' and frame.index.names == ['L', 'N'] and frame.loc[('b', 1), 'count'] == 3
        assert frame.attrs == {'source': ['sensor']}
        """,
        EXACT,
    ),
    case(
        "frame",
        "objects in a column are the named objects",
        """
        import pandas as pd
        tags = ['a']
        frame = pd.DataFrame({'tags': [tags, tags, ['b']]})
        """,
        """
        tags.append('c')
        assert frame.loc[0, 'tags'] is tags and frame.loc[1, 'tags'] == ['a', 'c']
        """,
        EXACT,
    ),
    case(
        "frame",
        "groupby, rolling and resampler keep their frame",
        """
        import pandas as pd
        frame = pd.DataFrame({'k': ['a', 'b', 'a'], 'v': [1.0, 2.0, 3.0]})
        groups = frame.groupby('k')
        moving = frame['v'].rolling(2)
        """,
        """
        assert groups['v'].sum().to_dict() == {'a': 4.0, 'b': 2.0} and groups.obj is frame
        assert moving.mean().tolist()[1:] == [1.5, 2.5]
        """,
        RIGHT,
    ),
    case(
        "frame",
        "subclass with metadata, flags",
        """
        import pandas as pd

        class Survey(pd.DataFrame):
            _metadata = ['place']

            @property
            def _constructor(self):
                return Survey

        survey = Survey({'a': [1]})
        survey.place = 'Ulm'
        strict = pd.DataFrame({'a': [1]}).set_flags(allows_duplicate_labels=False)
        """,
        """
        assert type(survey) is Survey and survey.place == 'Ulm' and type(survey[['a']]) is Survey
        assert not strict.flags.allows_duplicate_labels
        """,
        RIGHT,
    ),
    case(
        "frame",
        "index engine, cached column and later growth",
        """
        import pandas as pd
        frame = pd.DataFrame({'a': range(5)})
        frame.loc[3]
        # %%
        frame['b'] = frame['a'] * 2
        # %%
        frame.loc[9] = [7, 8]
        """,
        """
        assert list(frame.columns) == ['a', 'b'] and frame.loc[9, 'b'] == 8 and len(frame) == 6
        frame.loc[10] = [1, 1]
        assert frame.index.tolist() == [0, 1, 2, 3, 4, 9, 10]
        """,
        EXACT,
    ),
    case(
        "frame",
        "frame of views of one array, changed in place",
        """
        import numpy as np, pandas as pd
        data = np.arange(6.0)
        first = pd.Series(data[:3], copy=False)
        second = pd.Series(data[3:], copy=False)
        # %%
        data[4] = -1
        """,
        """
        assert second[1] == -1
        data[0] = -2
        assert first[0] == -2 and data[4] == -1
        """,
        EXACT,
    ),
    case(
        "frame",
        "sparse Series and text Series",
        """
        import pandas as pd
        sparse = pd.Series([0, 0, 1, 0], dtype=pd.SparseDtype('int64', 0))
        words = pd.Series(['a', None])
        """,
        """
        assert sparse.sparse.density == 0.25 and sparse.sparse.fill_value == 0
        assert words.isna().tolist() == [False, True] and str(words.dtype) == 'str'
        """,
        EXACT,
    ),
    case(
        "frame",
        "polars: frame, series, lazy query, expression",
        """
        import polars as pl
        frame = pl.DataFrame({'k': ['a', 'b', 'a'], 'v': [1, 2, 3]})
        alias = frame
        column = frame['v']
        doubled = pl.col('v') * 2
        lazy = frame.lazy().filter(pl.col('k') == 'a').select(doubled)
        """,
        """
        assert alias is frame and column.to_list() == [1, 2, 3] and frame.schema['v'] == pl.Int64
        assert lazy.collect()['v'].to_list() == [2, 6] and frame.select(doubled)['v'].to_list() == [2, 4, 6]
        """,
        RIGHT,
    ),
    case(
        "frame",
        "polars: numpy view of a column; expression with a lambda",
        """
        import polars as pl
        frame = pl.DataFrame({'v': [1.0, 2.0, 3.0]})
        values = frame['v'].to_numpy()
        step = 10
        mapped = frame.lazy().select(pl.col('v').map_batches(lambda s: s + step, return_dtype=pl.Float64))
        """,
        """
        step = 20
        assert values.tolist() == [1, 2, 3] and mapped.collect()['v'].to_list() == [21.0, 22.0, 23.0]
        """,
        HONEST,
    ),
    case(
        "frame",
        "pandas options",
        """
        import pandas as pd
        pd.set_option('display.max_rows', 7)
        pd.options.mode.performance_warnings = False
        """,
        """
        import pandas
        assert pandas.get_option('display.max_rows') == 7 and not pandas.options.mode.performance_warnings
        """,
        RIGHT,
    ),
    case(
        "frame",
        "scikit-learn: pipeline, estimator under two names",
        """
        import numpy as np
        from sklearn.linear_model import LinearRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import FunctionTransformer, StandardScaler
        X, y = np.arange(20.0).reshape(10, 2), np.arange(10.0)
        model = LinearRegression()
        pipeline = make_pipeline(FunctionTransformer(lambda a: a * 1.5), StandardScaler(), model).fit(X, y)
        coefficients = model.coef_
        """,
        """
        assert pipeline[-1] is model and model.coef_ is coefficients
        assert np.allclose(pipeline.predict(X), y)
        coefficients[:] = 0
        assert np.ptp(pipeline.predict(X)) == 0
        """,
        RIGHT,
    ),
    case(
        "frame",
        "scikit-learn: estimator class of the notebook with a random state",
        """
        import numpy as np
        from sklearn.base import BaseEstimator, TransformerMixin

        class Jitter(TransformerMixin, BaseEstimator):
            def __init__(self, rng=None):
                self.rng = rng

            def fit(self, X, y=None):
                return self

            def transform(self, X):
                return X + self.rng.normal(size=X.shape)

        rng = np.random.RandomState(3)
        jitter = Jitter(rng).fit(np.zeros((2, 2)))
        jitter.transform(np.zeros((2, 2)))
        """,
        """
        twin = np.random.RandomState(3)
        twin.normal(size=(2, 2))
        assert jitter.rng is rng and (jitter.transform(np.zeros((2, 2))) == twin.normal(size=(2, 2))).all()
        """,
        RIGHT,
    ),
]
