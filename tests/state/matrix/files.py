"""Files, databases and logs: objects whose content is on a disk."""

from __future__ import annotations

from tests.state.cases import HONEST, RIGHT, case

CASES = [
    case(
        "file",
        "open for reading, at position 10",
        """
        with open('data.txt', 'w') as out:
            out.write('0123456789abcdefghij')
        file = open('data.txt')
        file.read(10)
        alias = file
        """,
        """
        assert alias is file and file.mode == 'r' and file.tell() == 10 and file.read(3) == 'abc'
        assert alias.read() == 'defghij' and file.name == 'data.txt' and not file.closed
        file.close()
        """,
        RIGHT,
    ),
    case(
        "file",
        "binary, buffered, in the middle",
        """
        with open('data.bin', 'wb') as out:
            out.write(bytes(range(256)) * 100)
        file = open('data.bin', 'rb')
        file.seek(1000)
        file.read(24)
        raw = open('data.bin', 'rb', buffering=0)
        raw.seek(7)
        """,
        """
        assert file.tell() == 1024 and file.read(2) == b'\\x00\\x01' and file.mode == 'rb'
        assert raw.read(2) == b'\\x07\\x08' and type(raw).__name__ == 'FileIO'
        file.close(), raw.close()
        """,
        RIGHT,
    ),
    case(
        "file",
        "text with an encoding, errors and newlines, after readline",
        """
        with open('text.txt', 'wb') as out:
            out.write('ä\\r\\nö\\r\\nü\\r\\n'.encode('utf-16'))
        file = open('text.txt', encoding='utf-16', errors='replace', newline='')
        file.readline()
        """,
        """
        assert file.encoding == 'utf-16' and file.errors == 'replace' and file.readline() == 'ö\\r\\n'
        assert file.read() == 'ü\\r\\n'
        file.close()
        """,
        HONEST,
    ),
    case(
        "file",
        "open for writing, with bytes still in the buffer",
        """
        file = open('out.txt', 'w')
        file.write('first,')
        file.flush()
        file.write('second,')
        """,
        """
        file.write('third')
        file.close()
        assert open('out.txt').read() == 'first,second,third'
        """,
        HONEST,
    ),
    case(
        "file",
        "open for appending",
        """
        with open('log.txt', 'w') as out:
            out.write('old\\n')
        file = open('log.txt', 'a')
        file.write('new\\n')
        file.flush()
        """,
        """
        assert file.mode == 'a'
        file.write('newest\\n')
        file.close()
        assert open('log.txt').read() == 'old\\nnew\\nnewest\\n'
        """,
        RIGHT,
    ),
    case(
        "file",
        "open for reading and writing",
        """
        with open('both.bin', 'wb') as out:
            out.write(b'0123456789')
        file = open('both.bin', 'r+b')
        file.seek(3)
        file.write(b'XX')
        """,
        """
        assert file.tell() == 5 and file.read(2) == b'56'
        file.seek(0)
        file.write(b'Y')
        file.close()
        assert open('both.bin', 'rb').read() == b'Y12XX56789'
        """,
        RIGHT,
    ),
    case(
        "file",
        "closed file",
        """
        with open('closed.txt', 'w') as file:
            file.write('kept')
        """,
        """
        assert file.closed and file.name == 'closed.txt' and file.mode == 'w'
        assert open('closed.txt').read() == 'kept'
        """,
        HONEST,
    ),
    case(
        "file",
        "written file that the world changed after the capture",
        """
        file = open('out.txt', 'w')
        file.write('mine ')
        file.flush()
        """,
        """
        file.write('again')
        file.close()
        assert open('out.txt').read() == 'mine again'
        """,
        HONEST,
        between="""
        with open('out.txt', 'w') as other:
            other.write('somebody else wrote here')
        """,
    ),
    case(
        "file",
        "read file that the world shortened after the capture",
        """
        with open('in.txt', 'w') as out:
            out.write('0123456789' * 10)
        file = open('in.txt')
        file.read(50)
        """,
        """
        assert file.name == 'in.txt' and file.fileno() and file.read(5) == '01234'
        """,
        HONEST,
        between="""
        with open('in.txt', 'w') as other:
            other.write('short')
        """,
    ),
    case(
        "file",
        "file that was removed after the capture",
        """
        with open('in.txt', 'w') as out:
            out.write('0123456789')
        file = open('in.txt')
        file.read(5)
        """,
        """
        assert file.name == 'in.txt' and file.fileno() and file.read() == '56789'
        """,
        HONEST,
        between="""
        import os
        os.remove('in.txt')
        """,
    ),
    case(
        "file",
        "temporary files and folder, gone with their process",
        """
        import os, tempfile
        named = tempfile.NamedTemporaryFile('w+', suffix='.txt')
        named.write('kept')
        named.flush()
        folder = tempfile.TemporaryDirectory()
        with open(os.path.join(folder.name, 'inner.txt'), 'w') as out:
            out.write('inner')
        """,
        """
        import os
        named.seek(0)
        assert named.read() == 'kept' and named.name.endswith('.txt')
        named.write('+more')
        named.seek(0)
        assert named.read() == 'kept+more'
        assert open(os.path.join(folder.name, 'inner.txt')).read() == 'inner'
        folder.cleanup()
        assert not os.path.exists(folder.name)
        """,
        HONEST,
        between="""
        named.close()
        folder.cleanup()
        """,
    ),
    case(
        "file",
        "unnamed and spooled temporary files",
        """
        import tempfile
        unnamed = tempfile.TemporaryFile()
        unnamed.write(b'0123456789')
        unnamed.seek(4)
        spooled = tempfile.SpooledTemporaryFile(max_size=100, mode='w+')
        spooled.write('small')
        """,
        """
        assert unnamed.read() == b'456789'
        spooled.seek(0)
        assert spooled.read() == 'small'
        """,
        HONEST,
    ),
    case(
        "file",
        "StringIO and BytesIO at a position",
        """
        import io
        text = io.StringIO('line one\\nline two\\n')
        text.readline()
        raw = io.BytesIO(b'0123456789')
        raw.seek(4)
        window = raw.getbuffer()[2:4]
        alias = raw
        """,
        """
        assert text.readline() == 'line two\\n' and raw.read(1) == b'4' and alias is raw
        window[0] = ord('X')
        assert raw.getvalue() == b'01X3456789'
        text.write('more')
        assert text.getvalue().endswith('two\\nmore')
        """,
        HONEST,
    ),
    case(
        "file",
        "buffered writer over BytesIO, gzip, zipfile",
        """
        import gzip, io, zipfile
        raw = io.BytesIO()
        writer = io.TextIOWrapper(raw, encoding='utf-8', write_through=True)
        writer.write('ä')
        with gzip.open('data.gz', 'wt') as out:
            out.write('line\\n' * 10)
        packed = gzip.open('data.gz', 'rt')
        packed.readline()
        with zipfile.ZipFile('data.zip', 'w') as out:
            out.writestr('inner.txt', 'inner')
        archive = zipfile.ZipFile('data.zip')
        """,
        """
        writer.write('!')
        writer.flush()
        assert raw.getvalue() == 'ä!'.encode()
        assert len(packed.readlines()) == 9 and archive.read('inner.txt') == b'inner'
        """,
        HONEST,
    ),
    case(
        "file",
        "standard streams under names of one's own",
        """
        import sys
        out = sys.stdout
        log = sys.stderr.write
        """,
        """
        import sys
        assert out is sys.stdout
        out.write('seen')
        log('seen')
        """,
        HONEST,
    ),
    case(
        "file",
        "mmap of a file",
        """
        import mmap
        with open('mapped.bin', 'wb') as out:
            out.write(b'0123456789' * 1000)
        handle = open('mapped.bin', 'r+b')
        mapped = mmap.mmap(handle.fileno(), 0)
        mapped[0:2] = b'XX'
        mapped.seek(5)
        """,
        """
        assert mapped[0:4] == b'XX23' and mapped.tell() == 5 and len(mapped) == 10_000
        mapped[1:2] = b'Y'
        mapped.flush()
        assert open('mapped.bin', 'rb').read(3) == b'XY2'
        """,
        HONEST,
    ),
    case(
        "file",
        "anonymous mmap with a numpy view",
        """
        import mmap
        import numpy as np
        shared = mmap.mmap(-1, 4096)
        array = np.frombuffer(shared, dtype='u1')
        array[3] = 33
        """,
        """
        assert shared[3] == 33 and array[3] == 33
        shared[4] = 44
        assert array[4] == 44
        """,
        HONEST,
    ),
    case(
        "file",
        "shared memory of multiprocessing",
        """
        from multiprocessing import shared_memory
        import numpy as np
        block = shared_memory.SharedMemory(create=True, size=64)
        array = np.ndarray((8,), dtype='f8', buffer=block.buf)
        array[:] = 5
        """,
        """
        assert array[0] == 5
        block.buf[0:8] = bytes(8)
        assert array[0] == 0
        """,
        HONEST,
        between="""
        del array
        block.close()
        block.unlink()
        """,
    ),
    case(
        "database",
        "sqlite file: connection, cursor, settings",
        """
        import sqlite3
        connection = sqlite3.connect('own.db')
        connection.row_factory = sqlite3.Row
        connection.execute('create table t (a, b)')
        connection.executemany('insert into t values (?, ?)', [(1, 'x'), (2, 'y')])
        connection.commit()
        alias = connection
        """,
        """
        assert alias is connection
        rows = connection.execute('select * from t order by a').fetchall()
        assert [row['b'] for row in rows] == ['x', 'y']
        connection.execute("insert into t values (3, 'z')")
        connection.commit()
        import sqlite3
        assert sqlite3.connect('own.db').execute('select count(*) from t').fetchone() == (3,)
        """,
        RIGHT,
    ),
    case(
        "database",
        "sqlite file with a transaction that is open",
        """
        import sqlite3
        connection = sqlite3.connect('own.db')
        connection.execute('create table t (a)')
        connection.commit()
        connection.execute('insert into t values (1)')
        """,
        """
        assert connection.in_transaction and connection.execute('select count(*) from t').fetchone() == (1,)
        connection.rollback()
        assert connection.execute('select count(*) from t').fetchone() == (0,)
        """,
        HONEST,
        between="connection.rollback()\nconnection.close()",
    ),
    case(
        "database",
        "sqlite in memory, with a function of the notebook",
        """
        import sqlite3
        memory = sqlite3.connect(':memory:', isolation_level=None)
        memory.execute('create table t (a, b blob)')
        memory.execute('create index i on t (a)')
        memory.execute('insert into t values (?, ?)', (1, b'\\x00\\xff'))
        cursor = memory.execute('select a from t')
        """,
        """
        assert memory.execute('select * from t').fetchone() == (1, b'\\x00\\xff') and memory.isolation_level is None
        memory.execute('insert into t values (2, null)')
        assert memory.execute('select count(*) from t').fetchone() == (2,)
        assert memory.execute("select name from sqlite_master where type='index'").fetchone() == ('i',)
        """,
        HONEST,
    ),
    case(
        "database",
        "sqlite: functions and cursors of the notebook",
        """
        import sqlite3
        base = sqlite3.connect(':memory:')
        base.create_function('twice', 1, lambda x: x * 2)
        base.execute('create table t (a)')
        base.executemany('insert into t values (?)', [(n,) for n in range(5)])
        base.commit()
        rows = base.execute('select a from t')
        next(rows)
        """,
        """
        assert base.execute('select twice(4)').fetchone() == (8,) and rows.fetchone() == (1,)
        """,
        HONEST,
    ),
    case(
        "log",
        "logger with a level, a handler and a formatter",
        """
        import logging
        logger = logging.getLogger('mine.app')
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        handler = logging.FileHandler('app.log')
        handler.setFormatter(logging.Formatter('%(levelname)s:%(message)s'))
        logger.addHandler(handler)
        logger.info('before')
        """,
        """
        import logging
        assert logging.getLogger('mine.app') is logger and logger.level == logging.DEBUG and not logger.propagate
        assert logger.handlers == [handler]
        logger.debug('after')
        handler.flush()
        assert open('app.log').read() == 'INFO:before\\nDEBUG:after\\n'
        """,
        HONEST,
    ),
    case(
        "log",
        "logger with a handler of the notebook; root level",
        """
        import logging

        class Keep(logging.Handler):
            def __init__(self):
                super().__init__(logging.WARNING)
                self.records = []

            def emit(self, record):
                self.records.append(record.getMessage())

        logger = logging.getLogger('mine.kept')
        keep = Keep()
        logger.addHandler(keep)
        logger.warning('one')
        logging.getLogger().setLevel(logging.ERROR)
        """,
        """
        import logging
        logging.getLogger('mine.kept').error('two')
        logging.getLogger('mine.kept').info('not this')
        assert keep.records == ['one', 'two'] and logging.getLogger().level == logging.ERROR
        """,
        HONEST,
    ),
    case(
        "log",
        "logger that nobody has a name for",
        """
        import logging
        logging.getLogger('mine.quiet').setLevel(logging.CRITICAL)
        logging.getLogger('mine.quiet').addHandler(logging.NullHandler())
        """,
        """
        import logging
        assert logging.getLogger('mine.quiet').level == logging.CRITICAL
        assert [type(h) for h in logging.getLogger('mine.quiet').handlers] == [logging.NullHandler]
        """,
        HONEST,
    ),
]
