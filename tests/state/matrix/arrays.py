"""numpy: memory that several arrays share, and what an array is besides its values."""

from __future__ import annotations

from tests.state.cases import EXACT, HONEST, RIGHT, case

CASES = [
    case(
        "array",
        "view with offset and step",
        """
        import numpy as np
        base = np.arange(12.0)
        view = base[2:10:3]
        """,
        """
        view[0] = -1
        base[5] = -2
        assert base[2] == -1 and view[1] == -2
        assert view.strides == (24,) and np.shares_memory(base, view)
        """,
        EXACT,
    ),
    case(
        "array",
        "reshape and transpose of one base",
        """
        import numpy as np
        flat = np.arange(6)
        grid = flat.reshape(2, 3)
        turned = grid.T
        """,
        """
        turned[2, 1] = 99
        assert flat[5] == 99 and grid[1, 2] == 99 and turned.flags.f_contiguous and not turned.flags.c_contiguous
        """,
        EXACT,
    ),
    case(
        "array",
        "view of a view with negative strides",
        """
        import numpy as np
        base = np.arange(40).reshape(5, 8)
        flipped = base[::-1, ::-2]
        corner = flipped[1:3, :2]
        """,
        """
        corner[0, 0] = -5
        assert base[3, 7] == -5 and flipped[1, 0] == -5
        assert corner.strides == (-base.strides[0], -2 * base.strides[1])
        """,
        EXACT,
    ),
    case(
        "array",
        "views whose base has no name",
        """
        import numpy as np
        whole = np.arange(100)
        left, right = whole[:60], whole[40:]
        del whole
        """,
        """
        left[50] = -1
        assert right[10] == -1 and len(left) == 60 and len(right) == 60 and left[0] == 0 and right[-1] == 99
        """,
        EXACT,
    ),
    case(
        "array",
        "0-d array and a 0-d view",
        """
        import numpy as np
        scalar = np.array(3.5)
        again = scalar
        base = np.arange(4.0)
        point = base[2:3].reshape(())
        """,
        """
        scalar[...] = 4.0
        assert again is scalar and again == 4.0 and scalar.shape == ()
        point[...] = 7
        assert base[2] == 7 and point.shape == ()
        """,
        EXACT,
    ),
    case(
        "array",
        "broadcast view is read-only and of one row",
        """
        import numpy as np
        row = np.arange(3.0)
        wide = np.broadcast_to(row, (1000, 3))
        """,
        """
        row[1] = 8
        assert wide[999, 1] == 8 and wide.strides == (0, 8) and not wide.flags.writeable
        """,
        EXACT,
    ),
    case(
        "array",
        "writeable flag",
        """
        import numpy as np
        frozen = np.arange(3)
        frozen.flags.writeable = False
        base = np.arange(3)
        guarded = base[:]
        guarded.flags.writeable = False
        """,
        """
        assert not frozen.flags.writeable and not guarded.flags.writeable and base.flags.writeable
        base[0] = 5
        assert guarded[0] == 5
        try:
            frozen[0] = 1
        except ValueError:
            pass
        else:
            raise AssertionError('was written')
        frozen.flags.writeable = True
        """,
        EXACT,
    ),
    case(
        "array",
        "fields of a structured array",
        """
        import numpy as np
        people = np.zeros(3, dtype=[('age', 'i4'), ('size', 'f8', (2,)), ('name', 'U5')])
        ages = people['age']
        sizes = people['size'][:, 1]
        records = people.view(np.recarray)
        """,
        """
        ages[1] = 40
        sizes[2] = 1.5
        assert people[1]['age'] == 40 and people['size'][2, 1] == 1.5
        assert records.age[1] == 40 and type(records) is np.recarray and people.dtype.names == ('age', 'size', 'name')
        """,
        EXACT,
    ),
    case(
        "array",
        "one record of a structured array",
        """
        import numpy as np
        people = np.zeros(3, dtype=[('age', 'i4'), ('name', 'U5')])
        one = people[1]
        """,
        """
        one['name'] = 'Ada'
        assert people['name'][1] == 'Ada'
        """,
        HONEST,
    ),
    case(
        "array",
        "object array holds named objects",
        """
        import numpy as np
        inner = [1]
        boxes = np.empty(3, dtype=object)
        boxes[:] = [inner, {'x': inner}, None]
        part = boxes[:2]
        """,
        """
        inner.append(2)
        part[1] = 'new'
        assert boxes[0] is inner and part[0] is inner and boxes[1] == 'new' and boxes.dtype == object
        """,
        EXACT,
    ),
    case(
        "array",
        "Fortran order and strided arrays",
        """
        import numpy as np
        fortran = np.asfortranarray(np.arange(12.0).reshape(3, 4))
        odd = np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0)
        """,
        """
        assert fortran.flags.f_contiguous and fortran.strides == (8, 24) and fortran[1, 2] == 6.0
        assert odd.strides == (32, 8, 96) and odd[2, 3, 1] == 23
        """,
        EXACT,
    ),
    case(
        "array",
        "sliding window and as_strided",
        """
        import numpy as np
        signal = np.arange(10.0)
        windows = np.lib.stride_tricks.sliding_window_view(signal, 4)
        diagonal = np.lib.stride_tricks.as_strided(signal, (3,), (24,))
        """,
        """
        signal[3] = -1
        assert (windows[:4, ::-1].diagonal() == -1).all() and windows.strides == (8, 8) and diagonal[1] == -1
        diagonal[2] = -6
        assert signal[6] == -6
        """,
        EXACT,
    ),
    case(
        "array",
        "the same bytes as another dtype",
        """
        import numpy as np
        values = np.ones(4)
        bits = values.view(np.uint64)
        raw = values.view(np.uint8)[8:16]
        """,
        """
        raw[:] = 0
        assert values[1] == 0.0 and bits[1] == 0 and bits[0] == 0x3FF0000000000000
        """,
        EXACT,
    ),
    case(
        "array",
        "complex parts and diagonal",
        """
        import numpy as np
        z = np.zeros((3, 3), dtype=complex)
        real, imag, diagonal = z.real, z.imag, np.einsum('ii->i', z)
        """,
        """
        real[0, 0], imag[0, 0] = 1, 2
        diagonal[2] = 5j
        assert z[0, 0] == 1 + 2j and imag[2, 2] == 5
        """,
        EXACT,
    ),
    case(
        "array",
        "frombuffer over a bytearray",
        """
        import numpy as np
        raw = bytearray(16)
        numbers = np.frombuffer(raw, dtype='i4')
        window = memoryview(numbers)[1:3]
        """,
        """
        numbers[1] = 258
        assert raw[4:6] == b'\\x02\\x01' and window[0] == 258
        raw[0] = 7
        assert numbers[0] == 7
        """,
        RIGHT,
    ),
    case(
        "array",
        "array over bytes stays read-only",
        """
        import numpy as np
        text = b'0123456789abcdef'
        letters = np.frombuffer(text, dtype='u1')
        """,
        """
        assert not letters.flags.writeable and letters.tobytes() == text
        """,
        RIGHT,
    ),
    case(
        "array",
        "subclass with attributes",
        """
        import numpy as np

        class Image(np.ndarray):
            def __array_finalize__(self, parent):
                self.unit = getattr(parent, 'unit', None)

        pixels = np.zeros((4, 4)).view(Image)
        pixels.unit = 'K'
        crop = pixels[1:3, 1:3]
        """,
        """
        crop[0, 0] = 3
        assert type(pixels) is Image and type(crop) is Image and pixels[1, 1] == 3
        assert pixels.unit == 'K' and crop.unit == 'K'
        """,
        RIGHT,
    ),
    case(
        "array",
        "masked array shares data",
        """
        import numpy as np
        data = np.arange(5.0)
        masked = np.ma.array(data, mask=[0, 1, 0, 0, 1], fill_value=-1, copy=False)
        part = masked[1:4]
        """,
        """
        data[2] = 50
        assert masked[2] == 50 and part[1] == 50 and masked.mask.tolist() == [False, True, False, False, True]
        assert masked.fill_value == -1 and part.mask[0]
        """,
        RIGHT,
    ),
    case(
        "array",
        "dtypes: datetime, big-endian, half, text, long double, empty",
        """
        import numpy as np
        arrays = [
            np.array(['2024-01-01', 'NaT'], dtype='M8[h]'),
            np.arange(3, dtype='>i4'),
            np.array([1.5, np.nan], dtype='f2'),
            np.array(['ä', 'xyz']),
            np.array([1], dtype=np.longdouble) / 3,
            np.empty((0, 4), dtype='c8'),
            np.array([b'a\\0b', b'c'], dtype='S3'),
            np.array([True, False]),
        ]
        """,
        """
        import numpy as np
        assert arrays[0].dtype == 'M8[h]' and np.isnat(arrays[0][1]) and str(arrays[0][0]) == '2024-01-01T00'
        assert arrays[1].dtype.str == '>i4' and arrays[1].tobytes() == b'\\0\\0\\0\\0\\0\\0\\0\\1\\0\\0\\0\\2'
        assert arrays[2].dtype == np.float16 and arrays[2][0] == 1.5 and arrays[3].tolist() == ['ä', 'xyz']
        assert arrays[4][0] == np.longdouble(1) / 3 and arrays[5].shape == (0, 4) and arrays[5].dtype == 'c8'
        assert arrays[6].tolist() == [b'a\\0b', b'c'] and arrays[7].dtype == bool
        """,
        EXACT,
    ),
    case(
        "array",
        "variable-length strings",
        """
        import numpy as np
        words = np.array(['a', 'a much longer text than sixteen bytes'], dtype=np.dtypes.StringDType())
        first = words[:1]
        """,
        """
        first[0] = 'changed'
        assert words[0] == 'changed' and words[1] == 'a much longer text than sixteen bytes'
        assert words.dtype == np.dtypes.StringDType()
        """,
        HONEST,
    ),
    case(
        "array",
        "views inside containers, closures and instances",
        """
        import numpy as np
        base = np.zeros(10)

        class Ring:
            pass

        ring = Ring()
        ring.slot = base[4:6]
        parts = {'head': base[:2], 'tail': [base[8:]]}

        def make(view):
            def put(value):
                view[0] = value
            return put

        put = make(base[6:8])
        """,
        """
        put(6)
        ring.slot[0], parts['head'][0], parts['tail'][0][1] = 4, 1, 9
        assert base.tolist() == [1, 0, 0, 0, 4, 0, 6, 0, 0, 9]
        """,
        RIGHT,
    ),
    case(
        "array",
        "a part is changed between two captures",
        """
        import numpy as np
        base = np.zeros(500_000)
        tail = base[400_000:]
        # %%
        tail[7] = 1.0
        # %%
        base[3] = 2.0
        """,
        """
        assert base[400_007] == 1.0 and base[3] == 2.0 and base.sum() == 3.0
        tail[0] = 5
        assert base[400_000] == 5
        """,
        EXACT,
        between="base[:] = -1",
    ),
    case(
        "array",
        "a new view of an old array in a later cell",
        """
        import numpy as np
        base = np.arange(200_000)
        # %%
        view = base[100_000:]
        # %%
        view[0] = -1
        """,
        """
        assert base[100_000] == -1
        base[100_001] = -2
        assert view[1] == -2
        """,
        EXACT,
    ),
    case(
        "array",
        "iterators over arrays",
        """
        import numpy as np
        base = np.arange(6).reshape(2, 3)
        flat = base.flat
        next(flat); next(flat)
        """,
        """
        base[0, 2] = 77
        assert next(flat) == 77 and flat.index == 3 and flat.base is base
        """,
        HONEST,
    ),
    case(
        "array",
        "poly1d, vectorize and ufuncs",
        """
        import numpy as np
        line = np.poly1d([2, 1])
        offset = 10
        shifted = np.vectorize(lambda x: x + offset)
        operations = {'add': np.add, 'reduce': np.add.reduce, 'own': np.frompyfunc(lambda a, b: a * b + offset, 2, 1)}
        """,
        """
        offset = 20
        assert line(3) == 7 and shifted(np.array([1]))[0] == 21
        assert operations['add'] is np.add and operations['reduce']([1, 2]) == 3 and operations['own'](2, 3) == 26
        """,
        HONEST,
    ),
    case(
        "array",
        "Generator in the middle of its stream",
        """
        import numpy as np
        rng = np.random.default_rng(5)
        rng.normal(size=3)
        rng.integers(0, 10, dtype='u4')
        twin = np.random.default_rng(5)
        twin.normal(size=3)
        twin.integers(0, 10, dtype='u4')
        expected = twin.integers(0, 1000, size=5, dtype='u4').tolist(), twin.normal()
        """,
        """
        assert rng.integers(0, 1000, size=5, dtype='u4').tolist() == expected[0] and rng.normal() == expected[1]
        """,
        EXACT,
    ),
    case(
        "array",
        "one Generator under two names, two Generators on one bit generator",
        """
        import numpy as np
        bits = np.random.PCG64(3)
        first, second = np.random.Generator(bits), np.random.Generator(bits)
        alias = first
        legacy = np.random.RandomState(bits)
        """,
        """
        twin = np.random.Generator(np.random.PCG64(3))
        drawn = [first.random(), second.random(), alias.random(), bits.random_raw() * 0.0, legacy.random_sample()]
        wanted = [twin.random(), twin.random(), twin.random(), twin.bit_generator.random_raw() * 0.0, twin.random()]
        assert drawn == wanted and alias is first and first.bit_generator is second.bit_generator is bits
        """,
        RIGHT,
    ),
    case(
        "array",
        "RandomState with a cached normal, SeedSequence that spawned",
        """
        import numpy as np
        state = np.random.RandomState(4)
        state.normal()
        seeds = np.random.SeedSequence(9)
        seeds.spawn(2)
        """,
        """
        twin = np.random.RandomState(4)
        twin.normal()
        assert [state.normal() for _ in range(3)] == [twin.normal() for _ in range(3)]
        other = np.random.SeedSequence(9)
        other.spawn(2)
        assert seeds.spawn(1)[0].spawn_key == other.spawn(1)[0].spawn_key == (2,)
        """,
        EXACT,
    ),
    case(
        "array",
        "numpy.memmap",
        """
        import numpy as np
        np.arange(8, dtype='f8').tofile('disk.bin')
        mapped = np.memmap('disk.bin', dtype='f8', mode='r+', shape=(8,))
        mapped[0] = 100
        part = mapped[2:4]
        """,
        """
        assert mapped[0] == 100 and mapped[7] == 7 and type(mapped) is np.memmap
        part[0] = -2
        mapped.flush()
        assert mapped[2] == -2 and np.fromfile('disk.bin')[2] == -2 and np.fromfile('disk.bin')[0] == 100
        """,
        HONEST,
    ),
    case(
        "array",
        "numpy.memmap, copy on write",
        """
        import numpy as np
        np.arange(8, dtype='f8').tofile('disk.bin')
        mapped = np.memmap('disk.bin', dtype='f8', mode='c')
        mapped[0] = 100
        """,
        """
        assert mapped[0] == 100 and mapped[1] == 1 and np.fromfile('disk.bin')[0] == 0
        assert type(mapped) is np.memmap and mapped.mode == 'c' and mapped.filename.endswith('disk.bin')
        mapped[1] = 200
        assert np.fromfile('disk.bin')[1] == 1
        """,
        HONEST,
    ),
    case(
        "array",
        "sparse matrix shares its data array",
        """
        import numpy as np
        import scipy.sparse
        matrix = scipy.sparse.csr_array(np.eye(4))
        values = matrix.data
        """,
        """
        values[1] = 9
        assert matrix[1, 1] == 9 and matrix.data is values and (matrix @ np.ones(4)).tolist() == [1, 9, 1, 1]
        """,
        RIGHT,
    ),
]
