"""``python -m labnn``: the laboratory work from a terminal, a cluster or CI."""

import argparse
import importlib
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

from labnn.data import CarsData, open_dataset
from labnn.experiment import Run, run_folder, run_or_load
from labnn.kit.errors import LabError
from labnn.kit.files import write_text
from labnn.kit.hardware import usable_device
from labnn.kit.numbers import number, percent, rate
from labnn.kit.progress import Live
from labnn.runner import fastest_processes, run_all
from labnn.settings import NETWORKS, OPTIMIZERS, Experiment, check_names, method

DATA, CACHE, RUNS = Path("data/stanford_cars"), Path("data/cache"), Path("data/runs")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise LabError(f"Неверные аргументы ({message}): смотрите python -m labnn --help.")


def _parser() -> argparse.ArgumentParser:
    from labnn.report.protocol import GRID
    from labnn.report.statistics import MARGIN
    from labnn.report.studies import studies

    parser = _Parser(prog="python -m labnn", description="SqueezeNet на Stanford Cars: AMSGrad и Adam.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="КОМАНДА", parser_class=_Parser)

    def command(run, help: str, out: str = "", device: bool = True) -> argparse.ArgumentParser:
        """A command with the options that mean one thing everywhere; ``out`` is where its result goes by
        default.
        """
        added = commands.add_parser(
            run.__name__.strip("_"), help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        added.set_defaults(run=run)
        if out:
            added.add_argument(
                "--out", type=Path, default=Path(out), help="папка, в которую лягут результаты"
            )
        if device:
            added.add_argument("--data", required=True, type=Path, help="корень набора данных")
            added.add_argument(
                "--cache", type=Path, default=CACHE, help="папка декодированных снимков и весов"
            )
            added.add_argument(
                "--device", "--devices", nargs="+", metavar="X", help="cpu, cuda или несколько: cuda:0 cuda:1"
            )
        return added

    def add_threads(*trainers: argparse.ArgumentParser) -> None:
        for trainer in trainers:
            trainer.add_argument("--threads", type=int, help="потоков на сеть; по умолчанию измеряется")

    download = command(_download, "скачать Stanford Cars из Hugging Face или Kaggle", device=False)
    download.add_argument(
        "--data", type=Path, default=DATA, help="папка, в которой появится набор, около 2 ГБ"
    )

    train = command(_train, "обучить одну сеть и записать прогон", out="data/runs")
    train.add_argument("--skip-missing", action="store_true", help="пропускать снимки, которых нет в папке")
    _add_settings(train)

    compare = command(
        _compare, "сравнить оптимизаторы: подобрать скорости, повторить с зёрнами", "data/runs/compare"
    )
    words = f"{', '.join(OPTIMIZERS)} или ИМЯ=МОДУЛЬ:ФУНКЦИЯ(веса, скорость, затухание)"
    compare.add_argument("--optimizers", nargs="+", default=["amsgrad", "adam"], metavar="ИМЯ", help=words)
    compare.add_argument(
        "--grid", nargs="+", type=float, default=GRID, metavar="LR", help="скорости, общие для всех"
    )
    compare.add_argument("--seeds", type=int, default=6, help="сколько пар прогонов с лучшими скоростями")
    margin = "порог практического равенства, процентных пунктов точности; назначьте его до прогонов"
    compare.add_argument("--margin", type=float, default=100 * MARGIN, metavar="ПУНКТОВ", help=margin)
    compare.add_argument(
        "--figures", type=Path, default=Path("figures/compare"), help="папка рисунков и таблиц"
    )
    compare.add_argument("--processes", default="auto", help="сколько сетей обучать сразу; auto — измерить")
    _add_settings(compare, without=("optimizer", "lr", "seed"))

    predict = command(_predict, "назвать модель на своих снимках", device=False)
    predict.add_argument("photos", nargs="+", type=Path, metavar="СНИМОК", help="файлы или папки")
    predict.add_argument("--run", dest="folder", type=Path, help="прогон; без него сеть рисованного набора")
    predict.add_argument("--weights", type=Path, help="веса, если они не рядом с прогоном: .pt из data/cache")
    predict.add_argument("--data", type=Path, help="набор прогона, если имена классов не известны")
    predict.add_argument("--csv", type=Path, help="записать ответы и сюда")
    predict.add_argument("--figure", type=Path, help="рисунок со снимками и картами: .png или .jpg")
    predict.add_argument("--onnx", type=Path, help="записать сеть для других программ")

    study = command(_study, "обучить все сети опыта: по одной правке и вместе", out="data/runs")
    trained = [name for name, study in studies().items() if study.experiments()]
    study.add_argument("name", choices=trained, metavar="ОПЫТ", help=f"один из {', '.join(trained)}")
    study.add_argument("--processes", default="1", help="сколько сетей обучать сразу; auto — измерить")

    add_threads(train, compare, study)
    for trainer in (train, compare, study):
        crop = {"action": argparse.BooleanOptionalAction, "default": True, "help": "кадр по рамке"}
        trainer.add_argument("--crop-to-box", **crop)
    for many in (compare, study):
        words = "обучать на рабочих Dask; адрес его планировщика: tcp://МАШИНА:8786"
        many.add_argument("--cluster", metavar="АДРЕС", help=words)

    report = command(
        _report, "построить рисунки, таблицы и README по записям", "figures/recorded", device=False
    )
    report.add_argument("--runs", type=Path, default=RUNS, help="папка записей")
    report.add_argument("--readme", type=Path, help="файл, в котором обновить числа")
    report.add_argument("--html", type=Path, help="только сдать отчёт: выполненный блокнот одним файлом HTML")
    report.add_argument("--pdf", type=Path, help="то же в PDF, страницы A4; нужен Chromium")
    report.add_argument("--notebook", type=Path, default=Path("lab1.ipynb"), help="выполненный блокнот")
    report.add_argument("--code", action=argparse.BooleanOptionalAction, default=True, help="код в отчёте")
    return parser


def _add_settings(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """A flag for each field of ``Experiment``, ``without`` some."""
    more = {"optimizer": f": {', '.join(OPTIMIZERS)} или ИМЯ=МОДУЛЬ:ФУНКЦИЯ"}
    more["network"] = f": {', '.join(NETWORKS)} или ИМЯ=МОДУЛЬ:ФУНКЦИЯ(число классов)"
    for field in fields(Experiment):
        if field.name not in without:
            kind = {"type": float if field.default is None else type(field.default), "metavar": "X"}
            if isinstance(field.default, bool):
                kind = {"action": argparse.BooleanOptionalAction}
            flag = f"--{field.name.replace('_', '-')}"
            words = field.metadata["help"] + more.get(field.name, "")
            parser.add_argument(flag, default=field.default, help=words.replace("%", "%%"), **kind)


def _experiment(arguments: argparse.Namespace) -> Experiment:
    given = {
        field.name: getattr(arguments, field.name) for field in fields(Experiment) if field.name in arguments
    }
    for name, table in (("optimizer", OPTIMIZERS), ("network", NETWORKS)):
        if name in given:
            given[name] = _own(given[name], table)
    experiment = Experiment(**given)
    check_names(experiment)
    return experiment


def _own(words: str, table: dict) -> str:
    """The name in "name" or "name=module:function"; a function so named joins ``table``."""
    name, _, place = words.partition("=")
    if not name.replace("-", "_").isidentifier():  # it becomes part of a folder's name
        raise LabError(f"Имя «{name}» не годится: оставьте буквы, цифры и дефис.")
    if place:
        module, _, function = place.partition(":")
        try:
            sys.path.insert(0, "")  # the user's own module lies where the command is given
            table[name] = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise LabError(f"Функция «{words}» не найдена ({error}): напишите ИМЯ=МОДУЛЬ:ФУНКЦИЯ.") from None
    return name


def _devices(arguments: argparse.Namespace) -> list[str]:
    return [str(usable_device(name)) for name in arguments.device or [None]]


def _options(arguments: argparse.Namespace, experiment: Experiment, data: CarsData, words) -> dict:
    """What ``run_all`` needs beside the experiments; with ``--processes auto`` measured, and told."""
    devices, processes = _devices(arguments), arguments.processes
    if processes == "auto" and arguments.cluster is not None:
        processes = "1"  # as many at once as the cluster has workers
    elif processes == "auto":
        processes, rates = fastest_processes(experiment, data, cache_dir=arguments.cache, devices=devices)
        measured = ", ".join(f"{count} — {number(images, 0)}" for count, images in rates.items())
        print(
            f"Снимков в секунду при стольких обучениях сразу: {measured}. Одновременно: {processes}",
            flush=True,
        )
    elif not processes.isdecimal():
        raise LabError(f"Значение processes={processes} не годится: задайте auto или число от 1.")
    options = {"cache_dir": arguments.cache, "devices": devices, "processes": int(processes)}
    options["cluster"] = arguments.cluster
    return options | {"threads": arguments.threads, "progress": Live(words=words).standing}


def _accuracy(run: Run) -> str:
    return f"зерно {run.experiment.seed}: {number(100 * run.history['test_accuracy'].iloc[-1], 2)} %"


def _download(arguments: argparse.Namespace) -> None:
    from labnn.cars.download import download  # here: the clients take half a second to load

    download(arguments.data)


def _train(arguments: argparse.Namespace) -> None:
    experiment = _experiment(arguments)
    missing = "skip" if arguments.skip_missing else "error"
    data = open_dataset(arguments.data, crop_to_box=arguments.crop_to_box, missing=missing)
    folder, [device, *_] = run_folder(experiment, data, arguments.out), _devices(arguments)
    print(f"Прогон уже записан: {folder}" if folder.exists() else f"Запись прогона: {folder}", flush=True)
    run_or_load(
        experiment, data, arguments.out, cache_dir=arguments.cache, device=device, threads=arguments.threads
    )


def _compare(arguments: argparse.Namespace) -> None:
    from labnn.report import records, tables, words
    from labnn.report.protocol import Protocol
    from labnn.report.write import write_comparison

    names = tuple(_own(name, OPTIMIZERS) for name in arguments.optimizers)
    protocol = Protocol(
        _experiment(arguments),
        names,
        tuple(arguments.grid),
        arguments.seeds,
        arguments.weight_decay,
        arguments.margin / 100,
    )
    data = open_dataset(arguments.data, crop_to_box=arguments.crop_to_box)

    def title(run: Run) -> str:
        return f"{method(run.experiment.optimizer).title}, {rate(run.experiment.lr)}, {_accuracy(run)}"

    options = _options(arguments, protocol.tuning()[0], data, title)
    tuned, final = len(protocol.tuning()), arguments.seeds * len(names)
    print(f"Прогонов: {tuned} для подбора скорости обучения и {final} для ответа", flush=True)
    trained = protocol.tune(data, arguments.out, **options)
    tuning = records.table(trained)
    print(f"\n{tables.markdown(tables.rates(tuning))}\n\n{words.stability(tuning)}\n", flush=True)
    runs = records.table(protocol.compare(trained, data, arguments.out, **options))
    paths = write_comparison(runs, arguments.figures, tuning)
    print(
        f"\n{tables.markdown(tables.summary(runs))}\n\nРисунки и таблицы ({len(paths)}): {arguments.figures}"
    )
    print(words.verdict(runs, margin=protocol.margin))


def _study(arguments: argparse.Namespace) -> None:
    from labnn.report.studies import studies

    study = studies()[arguments.name]
    data = open_dataset(arguments.data, crop_to_box=arguments.crop_to_box)
    part, experiments = data.validation() if study.validation else data, study.experiments()

    def title(run: Run) -> str:
        return f"{study.called(run)}, {_accuracy(run)}"

    options = _options(arguments, experiments[0], part, title)
    run_all(experiments, part, study.folder(arguments.out), **options)


def _predict(arguments: argparse.Namespace) -> None:
    from labnn.report import predict
    from labnn.report.write import save_figure

    names = open_dataset(arguments.data).class_names if arguments.data else ()
    network = predict.open_network(arguments.folder or predict.EXAMPLE, arguments.weights, names)
    photos = predict.list_photos(arguments.photos)
    answers = predict.predict(network, photos)
    for photo, own in answers.groupby("photo", sort=False):
        told = ", ".join(
            f"{name} {percent(share, 1)}"
            for name, share in zip(own["class"], own["probability"], strict=True)
        )
        print(f"{photo}: {told}")
    if arguments.csv:
        print(write_text(arguments.csv, answers.to_csv(index=False, lineterminator="\n")))
    if arguments.figure:
        print(save_figure(predict.plot_answers(network, photos, answers), arguments.figure))
    if arguments.onnx:
        print(predict.write_onnx(network, arguments.onnx))


def _report(arguments: argparse.Namespace) -> None:
    if arguments.html or arguments.pdf:
        return _hand_in(arguments)
    from labnn.report.write import write_report

    print(*write_report(arguments.runs, arguments.out, arguments.readme), sep="\n")


def _hand_in(arguments: argparse.Namespace) -> None:
    from labnn.report.paper import write_html, write_pdf

    with tempfile.TemporaryDirectory() as folder:
        html = write_html(arguments.notebook, arguments.html or Path(folder) / "report.html", arguments.code)
        if arguments.html:
            print(html)
        if arguments.pdf:
            print(write_pdf(html, arguments.pdf))


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; gives the exit status: 0, or 2 for a mistake of the user's, told in one line on
    stderr.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # cp1251 and cp866 lack a star and a minus
            stream.reconfigure(errors="replace")
    try:
        parsed = _parser().parse_args(arguments)
        parsed.run(parsed)
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Остановлено; та же команда продолжит с сохранённого.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
